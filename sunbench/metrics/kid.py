"""Kernel distance: squared MMD under k(x, y) = (x.y / d + 1)^3, unbiased for shared prompts.

Source: Binkowski et al. 2018 (arXiv 1801.01401), eq. 4 and section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.blocks import Rows, together
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


def kernel(x: Floats, y: Floats) -> Floats:
    """Cubic polynomial kernel (n, d), (m, d) -> (n, m)."""
    result: Floats = (x @ y.T / x.shape[1] + 1) ** 3
    return result


def _pairs(weights: NDArray[Any], labels: Counts) -> Floats:
    """Weight of all pairs of different labels, for each row of weights (s, n)."""
    result = [w.sum(dtype=np.float64) ** 2 - (np.bincount(labels, w) ** 2).sum() for w in weights]
    return np.array(result, np.float64)


def _numbered(x: Rows, y: Rows) -> Iterator[tuple[slice, Floats, Floats]]:
    """Blocks of both sets in float64, and their rows' numbers."""
    start = 0
    for a, b in together((x, y)):
        part = slice(start, start + len(a))
        yield part, np.asarray(a, np.float64), np.asarray(b, np.float64)
        start = part.stop


def _mmd2(x: Rows, y: Rows, weights: NDArray[Any], labels: Counts) -> Floats:
    """Squared MMD of sets that show the same prompts, for each row of weights (s, n).

    Images of one prompt (and copies of one row) make no pair, within a set or across the two. The
    kernel is symmetric but across the sets, so a block stands for its mirror image too.
    """
    total = np.zeros(len(weights))
    for rows, xa, ya in _numbered(x, y):
        mine = np.asarray(weights[:, rows], np.float64)
        for columns, xb, yb in _numbered(x, y):
            if columns.start < rows.start:
                continue
            k = kernel(xa, xb) + kernel(ya, yb) - kernel(xa, yb) - kernel(ya, xb)
            k[labels[rows, None] == labels[None, columns]] = 0
            part = ((mine @ k) * weights[:, columns]).sum(1)
            total += part if columns.start == rows.start else 2 * part
    result: Floats = total / _pairs(weights, labels)
    return result


def _enough(reference: Rows, candidate: Rows) -> None:
    if same_length(reference=reference, candidate=candidate) < 2:
        raise UserError("given 1 image, expected at least 2 for a kernel distance")


def kid(reference: Rows, candidate: Rows, prompts: NDArray[Any]) -> float:
    """Kernel distance of two sets (n, d), (n, d) that show the same prompts (n,).

    All pairs of different prompts, no others: the two images of one prompt are alike whatever the
    methods are, and pairs of them would stand in the cross term alone. So its expectation is 0
    when both sets follow one law. No subsets, nothing random.
    """
    _enough(reference, candidate)
    labels = cluster_labels(prompts)
    same_length(reference=reference, prompts=labels)
    if labels.max() < 1:
        raise UserError("given images of 1 prompt, expected at least 2 for a kernel distance")
    return float(_mmd2(reference, candidate, np.ones((1, len(labels))), labels)[0])


def resampled_kid(
    reference: Rows,
    candidate: Rows,
    clusters: NDArray[Any],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """`kid` with its centered joint bootstrap over prompts."""
    n = same_length(reference=reference, candidate=candidate, clusters=clusters)
    value = kid(reference, candidate, clusters)
    labels = cluster_labels(clusters)
    counts = [w.astype(np.uint16) for w in image_resamples(clusters, samples, seed)]
    kept = [w for w in counts if len(np.unique(labels[w > 0])) > 1]
    weights = np.stack(kept) if kept else np.empty((0, n), np.uint16)
    return Resampled(value, _mmd2(reference, candidate, weights, labels), n, centered=True)


def kid_estimate(
    reference: Rows,
    candidate: Rows,
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
