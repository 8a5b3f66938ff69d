"""Kernel distance: squared MMD under k(x, y) = (x.y / d + 1)^3, unbiased for shared prompts.

Source: Binkowski et al. 2018 (arXiv 1801.01401), eq. 4 and section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.estimate import (
    Counts,
    Estimate,
    Floats,
    Resampled,
    cluster_labels,
    image_resamples,
    same_length,
)
from sunbench.metrics.metric import CellFeatures, SetMetric, Tolerance, both

BLOCK = 1024  # columns of the kernel matrix in memory


def kernel(x: Floats, y: Floats) -> Floats:
    """Cubic polynomial kernel (n, d), (m, d) -> (n, m)."""
    result: Floats = (x @ y.T / x.shape[1] + 1) ** 3
    return result


def _pairs(weights: Floats, labels: Counts) -> Floats:
    """Weight of all pairs of different labels, for each row of weights (s, n)."""
    sums = np.stack([np.bincount(labels, w) for w in weights])
    result: Floats = weights.sum(1) ** 2 - (sums**2).sum(1)
    return result


def _mmd2(x: Floats, y: Floats, weights: Floats, labels: Counts) -> Floats:
    """Squared MMD of sets that show the same prompts, for each row of weights (s, n).

    Images of one prompt (and copies of one row) make no pair, within a set or across the two.
    """
    total = np.zeros(len(weights))
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        k = kernel(x, x[part]) + kernel(y, y[part]) - 2 * kernel(x, y[part])
        k[labels[:, None] == labels[None, part]] = 0
        total += ((weights @ k) * weights[:, part]).sum(1)
    result: Floats = total / _pairs(weights, labels)
    return result


def _pair(reference: NDArray[Any], candidate: NDArray[Any]) -> tuple[Floats, Floats]:
    if same_length(reference=reference, candidate=candidate) < 2:
        raise UserError("given 1 image, expected at least 2 for a kernel distance")
    return np.asarray(reference, np.float64), np.asarray(candidate, np.float64)


def kid(reference: NDArray[Any], candidate: NDArray[Any], prompts: NDArray[Any]) -> float:
    """Kernel distance of two sets (n, d), (n, d) that show the same prompts (n,).

    All pairs of different prompts, no others: the two images of one prompt are alike whatever the
    methods are, and pairs of them would stand in the cross term alone. So its expectation is 0
    when both sets follow one law. No subsets, nothing random.
    """
    x, y = _pair(reference, candidate)
    labels = cluster_labels(prompts)
    same_length(reference=x, prompts=labels)
    if labels.max() < 1:
        raise UserError("given images of 1 prompt, expected at least 2 for a kernel distance")
    return float(_mmd2(x, y, np.ones((1, len(x))), labels)[0])


def kid_independent(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """Kernel distance of two independent sets (n, d), (n, d), as the literature defines it."""
    x, y = _pair(reference, candidate)
    n = len(x)
    inner = sum(kernel(a, a).sum() - np.trace(kernel(a, a)) for a in (x, y)) / (n * (n - 1))
    return float(inner - 2 * kernel(x, y).mean())


def resampled_kid(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    clusters: NDArray[Any],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """`kid` with its centered joint bootstrap over prompts."""
    n = same_length(reference=reference, candidate=candidate, clusters=clusters)
    x, y = _pair(reference, candidate)
    value = kid(x, y, clusters)
    labels = cluster_labels(clusters)
    weights = np.stack(list(image_resamples(clusters, samples, seed)) or [np.ones(n)])[:samples]
    keep = [len(np.unique(labels[w > 0])) > 1 for w in weights]
    return Resampled(value, _mmd2(x, y, weights[keep], labels), n, centered=True)


def kid_estimate(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    clusters: NDArray[Any],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`kid` with its interval."""
    return resampled_kid(reference, candidate, clusters, samples=samples, seed=seed).estimate(level)


class Kid(SetMetric):
    """Kernel distance to the reference set, prompts shared by both."""

    name = "kid"
    summary = "kernel distance to the reference set on a named network"
    protocol = "squared MMD, (x.y / d + 1)^3, over all pairs of different prompts, equal N"
    tolerance = Tolerance(1e-4, 0.02)
    network, capability = "inception", "image"

    def resampled(self, features: CellFeatures) -> Resampled:
        """The distance and its draws."""
        return resampled_kid(*both(features), features.clusters)
