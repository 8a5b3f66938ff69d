"""Inception score of class probabilities.

Source: Salimans et al. 2016 (arXiv 1606.03498), section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.blocks import blocks
from sunbench.metrics.estimate import Floats, Resampled, image_resamples, same_length
from sunbench.metrics.metric import CellFeatures, Metric, Tolerance, wrong_network
from sunbench.metrics.networks.network import Classifier


def _plogp(p: Floats) -> Floats:
    """Sum of p log p over the last axis, with 0 log 0 = 0."""
    result: Floats = (p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    return result


def _score(p: Floats, weights: Floats) -> float:
    """exp of the mean KL divergence of p(y|x) from the weighted marginal p(y)."""
    w = weights / weights.sum()
    return float(np.exp(w @ _plogp(p) - _plogp(w @ p)))


def _parts(n: int, splits: int, seed: int) -> list[NDArray[np.intp]]:
    if not 1 <= splits <= n:
        raise UserError(f"given {splits} splits, expected 1 to {n} (the number of images)")
    order = np.random.default_rng(seed).permutation(n)
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def inception_score(probabilities: NDArray[Any], *, splits: int = 10, seed: int = 0) -> float:
    """Mean score of `splits` parts of a seeded permutation; probabilities: (n, classes)."""
    p = np.asarray(probabilities, np.float64)
    parts = _parts(same_length(probabilities=p), splits, seed)
    return float(np.mean([_score(p[i], np.ones(len(i))) for i in parts]))


def resampled_inception_score(
    probabilities: NDArray[Any],
    clusters: NDArray[Any],
    *,
    splits: int = 10,
    samples: int = 200,
    seed: int = 0,
) -> Resampled:
    """Inception score with its centered bootstrap over prompts."""
    n = same_length(probabilities=probabilities, clusters=clusters)
    p = np.asarray(probabilities, np.float64)
    value, parts = inception_score(p, splits=splits, seed=seed), _parts(n, splits, seed)
    if len(np.unique(clusters)) < 2:
        samples = 0

    def draw(w: Floats) -> float:
        return float(np.mean([_score(p[i], w[i]) for i in parts if w[i].sum() > 0]))

    draws = [draw(w) for w in image_resamples(clusters, samples, seed)]
    return Resampled(value, np.array(draws), n, centered=True)


class InceptionScore(Metric):
    """Inception score of a cell's images alone; it does not look at the reference."""

    name = "inception_score"
    summary = "exp of the mean KL divergence of class probabilities from their marginal"
    protocol = "Inception logits without bias, clean resize, 10 splits of a seeded permutation"
    compares, reads, better = "alone", "embeddings", "higher"
    tolerance = Tolerance(0.05, 0.01)
    network = "inception"

    def resampled(self, features: CellFeatures) -> Resampled:
        """The score and its draws."""
        import torch

        if not isinstance(features.network, Classifier):
            raise wrong_network(self.name, features.network)
        network, parts = features.network, []
        for x in blocks(features.candidate):
            logits = torch.from_numpy(np.asarray(x, np.float32))
            parts.append(network.probabilities(logits).cpu().numpy())
        p = np.concatenate(parts)
        return resampled_inception_score(p, features.clusters)


class ZeroShotInceptionScore(InceptionScore):
    """The same on the zoo, whose scorer has no classes but can be asked about the zoo's things."""

    name = "zero_shot_inception_score"
    summary = "Inception score of the zoo scorer's zero-shot probabilities of the zoo's things"
    protocol = (
        "softmax over the zoo's things of the scorer's scaled cosines with 'a THING', 10 splits of"
        " a seeded permutation"
    )
    network = "zoo-clip"
