"""Features read in blocks: the same numbers, and memory that does not grow with the images."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sunbench.metrics import CellFeatures
from sunbench.metrics.blocks import Blocked, blocks, picked, whole
from sunbench.metrics.cos import Cos
from sunbench.metrics.finite_n import finite_n, mean_bias
from sunbench.metrics.frechet import fd, resampled_fd
from sunbench.metrics.kid import resampled_kid


class Elsewhere:
    """Rows that are made anew, part by part, each time they are read."""

    def __init__(self, n: int, d: int, seed: int, part: int = 300) -> None:
        self.shape, self.seed, self.part = (n, d), seed, part

    def __len__(self) -> int:
        return self.shape[0]

    def parts(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self), self.part):
            rows = min(self.part, len(self) - start)
            rng = np.random.default_rng([self.seed, start])
            yield (rng.standard_normal((rows, self.shape[1])) + self.seed).astype(np.float16)


def pair(n: int, d: int) -> tuple[Elsewhere, Elsewhere]:
    return Elsewhere(n, d, 0), Elsewhere(n, d, 1, part=257)


@pytest.mark.parametrize("size", [1, 7, 300, 1000, 5000])
def test_blocks_hold_every_row_in_order(size: int) -> None:
    rows = Elsewhere(1000, 3, 0)
    assert isinstance(rows, Blocked)
    cut = list(blocks(rows, size))
    assert {len(b) for b in cut[:-1]} <= {size}
    assert np.array_equal(np.concatenate(cut), whole(rows))
    assert np.array_equal(whole(rows), np.concatenate(list(blocks(whole(rows), size))))
    chosen = np.random.default_rng(0).random(1000) < 0.3
    assert np.array_equal(picked(rows, chosen), whole(rows)[chosen])


@pytest.mark.parametrize(("n", "d"), [(2500, 8), (60, 80)])
def test_distances_of_blocks_are_those_of_arrays(n: int, d: int) -> None:
    x, y = pair(n, d)
    a, b = whole(x), whole(y)
    clusters = np.arange(n) // 3
    assert fd(x, y) == pytest.approx(fd(a, b), rel=1e-12)
    for metric in (resampled_fd, resampled_kid):
        mine = metric(x, y, clusters, samples=5)
        theirs = metric(a, b, clusters, samples=5)
        assert mine.value == pytest.approx(theirs.value, rel=1e-9)
        np.testing.assert_allclose(mine.draws, theirs.draws, rtol=1e-9)
    assert finite_n(x, y, clusters) == finite_n(a, b, clusters)


def test_the_bias_of_the_mean_takes_prompts_in_any_order() -> None:
    x, y = pair(2500, 4)
    clusters = np.arange(2500) // 5 * 7 % 500
    order = np.random.default_rng(0).permutation(2500)
    mixed = mean_bias(whole(x)[order], whole(y)[order], clusters[order])
    assert mean_bias(x, y, clusters) == pytest.approx(mixed, rel=1e-9)


def test_scores_of_blocks_are_those_of_arrays() -> None:
    x, y = pair(2500, 4)
    clusters = np.arange(2500)
    mine = Cos().finite_scores(CellFeatures(x, clusters, y))
    assert np.array_equal(mine, Cos().scores(CellFeatures(whole(x), clusters, whole(y))))


def peak(n: int) -> int:
    """Bytes held at most while a distance, its draws and its bias are computed."""
    x, y = pair(n, 128)
    clusters = np.arange(n) // 3
    tracemalloc.start()
    try:
        resampled_fd(x, y, clusters, samples=2)
        finite_n(x, y, clusters, splits=1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_images() -> None:
    features = 20_000 * 128 * 8
    assert peak(20_000) - peak(4_000) < 0.1 * features
