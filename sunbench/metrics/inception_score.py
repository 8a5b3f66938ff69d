"""Inception score of class probabilities.

Source: Salimans et al. 2016 (arXiv 1606.03498), section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.estimate import (
    Estimate,
    Floats,
    centred_interval,
    image_resamples,
    same_length,
)


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


def inception_score_estimate(
    probabilities: NDArray[Any],
    clusters: NDArray[Any],
    *,
    splits: int = 10,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Inception score with a centred interval of the bootstrap over prompts."""
    n = same_length(probabilities=probabilities, clusters=clusters)
    value, p = (
        inception_score(probabilities, splits=splits, seed=seed),
        np.asarray(probabilities, np.float64),
    )
    parts = _parts(n, splits, seed)
    if len(np.unique(clusters)) < 2:
        return Estimate(value, float("nan"), float("nan"), n)

    def draw(w: Floats) -> float:
        return float(np.mean([_score(p[i], w[i]) for i in parts if w[i].sum() > 0]))

    draws = np.array([draw(w) for w in image_resamples(clusters, samples, seed)])
    return Estimate(value, *centred_interval(value, draws, level), n)
