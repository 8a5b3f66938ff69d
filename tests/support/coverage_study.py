"""Simulated runs with clustered prompts: how often a 95 % interval holds the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sunbench.metrics import fd, fd_estimate, kid_estimate, mean_estimate
from sunbench.metrics.comparisons import paired_difference
from sunbench.metrics.estimate import Estimate, Resampled, resampled_mean
from sunbench.metrics.kid import kernel

PROMPTS, SEEDS, DIMENSION = 120, 2, 6
CLUSTERS = np.repeat(np.arange(PROMPTS), SEEDS)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """How many of so many intervals held the truth."""

    statistic: str
    held: int
    runs: int

    @property
    def share(self) -> float:
        """Share of intervals that held it."""
        return self.held / self.runs


def features(g: np.random.Generator) -> tuple[Array, Array]:
    """Reference and candidate: each prompt and each noise shape both; the candidate is shifted."""
    prompt = g.standard_normal((PROMPTS, DIMENSION))[CLUSTERS]
    noise = g.standard_normal(prompt.shape)
    own = g.standard_normal(prompt.shape)
    x = 0.6 * prompt + 0.8 * noise
    return x, 0.6 * prompt + 0.64 * noise + 0.48 * own + 0.4


def scores(g: np.random.Generator) -> tuple[Array, Array]:
    """Skewed scores of a method and of the floor, of means 0.5 and 1; prompts shape both."""
    prompt = g.gamma(4, 0.25, PROMPTS)[CLUSTERS]
    return tuple(m * prompt * g.gamma(9, 1 / 9, len(prompt)) for m in (0.5, 1.0))


def _ratio(g: np.random.Generator, samples: int, seed: int) -> Estimate:
    a, b = (resampled_mean(x, CLUSTERS, samples=samples, seed=seed) for x in scores(g))
    ratio: Resampled | None = a.over(b)
    assert ratio is not None
    return ratio.estimate()


def _difference(g: np.random.Generator, samples: int, seed: int) -> Estimate:
    a, b = scores(g)
    d = paired_difference(a, b, CLUSTERS)
    return Estimate(d.value, *d.interval(), len(a))


@cache
def _kid_truth() -> float:
    """The law's own kernel distance, from two large independent samples."""
    g = np.random.default_rng(9)
    total, blocks = 0.0, 60
    for _ in range(blocks):
        x, y = (np.concatenate([features(g)[k][::SEEDS] for _ in range(8)]) for k in (0, 1))
        off = ~np.eye(len(x), dtype=bool)
        total += (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))[off].mean()
    return total / blocks


@cache
def _fd_truth() -> float:
    """The expectation at this N, which is what the interval is for."""
    g = np.random.default_rng(8)
    return float(np.mean([fd(*features(g)) for _ in range(1500)]))


Study = tuple[Callable[[np.random.Generator, int, int], Estimate], Callable[[], float]]
STUDIES: dict[str, Study] = {
    "mean": (lambda g, s, k: mean_estimate(scores(g)[0], CLUSTERS, samples=s, seed=k), lambda: 0.5),
    "ratio of means": (_ratio, lambda: 0.5),
    "paired difference": (_difference, lambda: -0.5),
    "fd": (lambda g, s, k: fd_estimate(*features(g), CLUSTERS, samples=s, seed=k), _fd_truth),
    "kid": (lambda g, s, k: kid_estimate(*features(g), CLUSTERS, samples=s, seed=k), _kid_truth),
}


def study(statistic: str, runs: int, samples: int) -> Coverage:
    """Coverage of one statistic over seeded runs."""
    estimate, truth = STUDIES[statistic]
    target, g = truth(), np.random.default_rng(7)
    held = 0
    for k in range(runs):
        e = estimate(g, samples, k)
        held += e.low <= target <= e.high
    return Coverage(statistic, held, runs)
