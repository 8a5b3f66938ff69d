"""What a Fréchet distance owes to its number of images: bias of the mean, N/2, infinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.blocks import Rows, together, whole
from sunbench.metrics.estimate import cluster_labels, same_length
from sunbench.metrics.frechet import fd, fd_of_some


@dataclass(frozen=True)
class FiniteN:
    """A distance at N, at N / 2 and extrapolated, and the part of it that is the mean's noise."""

    value: float
    half: float
    infinity: float
    mean_bias: float


def mean_bias(reference: Rows, candidate: Rows, clusters: NDArray[Any]) -> float:
    """Expected excess of |m_r - m_c|^2 at this N: the trace of Cov(x - y) over N.

    Row i of both shows one prompt, and prompts are clusters, so it is the trace of the covariance
    of the mean paired difference. What covariances add is not in it.
    """
    n = same_length(reference=reference, candidate=candidate, clusters=clusters)
    labels = cluster_labels(clusters)
    count = int(labels.max()) + 1
    if count < 2:
        raise UserError("given images of 1 prompt, expected at least 2")
    runs = np.cumsum(np.append(0, np.diff(labels) != 0))
    if runs[-1] + 1 > count:  # a prompt's images are not side by side
        order = np.argsort(labels, kind="stable")
        reference, candidate = whole(reference)[order], whole(candidate)[order]
        runs = labels[order]
    mean = np.zeros(reference.shape[1])
    for x, y in together((reference, candidate)):
        mean += _gap(x, y).sum(0) / n
    return _squared_sums(reference, candidate, mean, runs) * count / (count - 1) / n**2


def _squared_sums(
    reference: Rows, candidate: Rows, mean: NDArray[np.float64], runs: NDArray[np.intp]
) -> float:
    """Sum over prompts of the squared sum of their differences from the mean difference.

    runs: the prompt of each image, 0, ..., 0, 1, ...
    """
    total, row, tail = 0.0, 0, np.zeros_like(mean)  # tail: of a prompt that a block cuts
    for x, y in together((reference, candidate)):
        own = runs[row : row + len(x)] - runs[row]
        sums = np.zeros((own[-1] + 1, len(mean)))
        np.add.at(sums, own, _gap(x, y) - mean)
        sums[0] += tail
        row += len(x)
        cut = row < len(runs) and runs[row] == runs[row - 1]
        tail = sums[-1] if cut else np.zeros_like(mean)
        total += float(np.square(sums[:-1] if cut else sums).sum())
    return total


def _gap(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(x, np.float64) - np.asarray(y, np.float64)


def finite_n(
    reference: Rows,
    candidate: Rows,
    clusters: NDArray[Any],
    *,
    splits: int = 4,
    seed: int = 0,
) -> FiniteN:
    """The distance at N, its mean over both halves of seeded splits of the prompts, and beyond.

    infinity = 2 fd(N) - fd(N / 2): the intercept of a line in 1 / N, on which the distance lies
    where N is a few times the number of features. With prompts split, both sets stay paired.
    Source: Chong & Forsyth 2020 (arXiv 1911.07023), section 3; two sizes in place of fifteen.
    """
    value = fd(reference, candidate)
    labels = cluster_labels(clusters)
    count, rng = int(labels.max()) + 1, np.random.default_rng(seed)
    if count < 4:
        raise UserError(f"given {count} prompts, expected at least 4 for halves")
    halves = []
    for _ in range(splits):
        first = np.isin(labels, rng.permutation(count)[: count // 2])
        halves += [fd_of_some(reference, candidate, part) for part in (first, ~first)]
    half = float(np.mean(halves))
    bias = mean_bias(reference, candidate, clusters)
    return FiniteN(value, half, 2 * value - half, bias)


def order_changes(distances: Mapping[str, FiniteN]) -> list[tuple[str, str]]:
    """Pairs of methods whose order is not the same at N, at N / 2 and at infinity."""
    out = []
    for (a, x), (b, y) in combinations(distances.items(), 2):
        signs = {np.sign(x.value - y.value), np.sign(x.half - y.half)}
        if len(signs | {np.sign(x.infinity - y.infinity)}) > 1:
            out.append((a, b))
    return out
