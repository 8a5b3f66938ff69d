"""Speed of the Fréchet step at Inception's size, side by side with scipy's sqrtm."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg

from sunbench.metrics import Moments, ReferenceFactor, fd_estimate, frechet

D = 2048


def moments(seed: int, n: int = 2 * D) -> Moments:
    scale = np.arange(1, D + 1) ** -0.5  # a power-law spectrum, as features have
    return Moments.of(np.random.default_rng(seed).standard_normal((n, D)) * scale)


@pytest.fixture(scope="module")
def sets() -> tuple[Moments, Moments]:
    return moments(0), moments(1)


def by_sqrtm(a: Moments, b: Moments) -> float:
    s, t = a.covariance, b.covariance
    cross = scipy.linalg.sqrtm(s @ t)
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(s) + np.trace(t) - 2 * np.trace(cross).real)


def timed(call: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


@pytest.mark.slow
@pytest.mark.oracle
def test_frechet_step_is_ten_times_faster_than_sqrtm(benchmark, sets):
    factor = ReferenceFactor.of(sets[0])
    benchmark.pedantic(frechet, (factor, sets[1]), rounds=3, warmup_rounds=1)
    ours, value = min(timed(lambda: frechet(factor, sets[1])) for _ in range(3))
    theirs, expected = timed(lambda: by_sqrtm(*sets))
    benchmark.extra_info["ratio"] = theirs / ours
    assert value == pytest.approx(expected, rel=1e-6)
    assert theirs / ours >= 10, f"{theirs:.2f} s against {ours:.2f} s"


def test_interval_of_the_zoo(benchmark):
    x, y = np.random.default_rng(0).standard_normal((2, 1000, 128))
    e = benchmark.pedantic(fd_estimate, (x, y, np.arange(1000)), {"samples": 20}, rounds=2)
    assert e.low <= e.value <= e.high
