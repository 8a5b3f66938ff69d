"""A number with its interval: bootstrap over prompts as clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sunbench.errors import UserError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A value, its interval and the number of observations behind it.

    `low` and `high` are NaN where no interval can be had: one prompt, or no resamples.
    """

    value: float
    low: float
    high: float
    n: int


def same_length(**arrays: Sized) -> int:
    """The one length of all arrays; different N are never compared (UserError)."""
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        sizes_text = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise UserError(
            f"given {sizes_text}, expected the same number: different N are never compared"
        )
    n = next(iter(sizes.values()))
    if n == 0:
        raise UserError("given no images, expected at least one")
    return n


def cluster_labels(clusters: NDArray[Any]) -> Counts:
    """Clusters numbered 0..C-1 in sorted order, shape (n,)."""
    return np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.int64).reshape(-1)


def resamples(count: int, samples: int, seed: int) -> Iterator[Counts]:
    """`samples` draws of `count` clusters with replacement: how often each was drawn, (count,).

    The same seed draws the same prompts for every metric and cell, so that differences between
    them are compared on common random numbers.
    """
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(count, size=count), minlength=count).astype(np.int64)


def image_resamples(clusters: NDArray[Any], samples: int, seed: int) -> Iterator[Floats]:
    """The same draws as weights of single images, shape (n,)."""
    labels = cluster_labels(clusters)
    for counts in resamples(int(labels.max()) + 1, samples, seed):
        yield counts[labels].astype(np.float64)


@dataclass(frozen=True)
class Resampled:
    """A statistic and its value on each resample of prompts, (samples,).

    centered: whether resampling shifts it as a whole (`centered_interval`). lowest: what it can
    never be below. Statistics of one set of prompts share their draws, so that ratios and
    differences are taken draw by draw.
    """

    value: float
    draws: Floats
    n: int
    centered: bool = False
    lowest: float = -np.inf

    def estimate(self, level: float = 0.95) -> Estimate:
        """The value with its interval; NaN bounds where there are fewer than two draws."""
        if len(self.draws) < 2:
            return Estimate(self.value, float("nan"), float("nan"), self.n)
        if self.centered:
            low, high = centered_interval(self.value, self.draws, level)
        else:
            low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        low, high = min(float(low), self.value), max(float(high), self.value)
        return Estimate(self.value, max(low, self.lowest), high, self.n)

    def over(self, other: Resampled) -> Resampled | None:
        """The ratio to another statistic, draw by draw; None when that one is not positive.

        For means this is the ratio of means, not the mean of ratios.
        """
        if other.value <= 0 or (other.draws <= 0).any():
            return None
        centered = self.centered or other.centered
        return Resampled(self.value / other.value, self._with(other, "/"), self.n, centered, 0.0)

    def minus(self, other: Resampled) -> Resampled:
        """The difference from another statistic, draw by draw."""
        centered = self.centered or other.centered
        return Resampled(self.value - other.value, self._with(other, "-"), self.n, centered)

    def _with(self, other: Resampled, sign: str) -> Floats:
        if len(self.draws) != len(other.draws):
            raise UserError(
                f"given {len(self.draws)} and {len(other.draws)} resamples, expected the same draws"
            )
        return self.draws / other.draws if sign == "/" else self.draws - other.draws


def resampled_mean(
    values: NDArray[Any], clusters: NDArray[Any], *, samples: int = 1000, seed: int = 0
) -> Resampled:
    """Mean over images, and over the images of each resample of prompts.

    values: (n,); clusters: (n,), the prompt of each image. Prompts may have different numbers of
    images. Source: Davison & Hinkley, Bootstrap Methods and their Application (1997), 3.8.
    """
    n = same_length(values=values, clusters=clusters)
    labels, x = cluster_labels(clusters), np.asarray(values, np.float64)
    sums, sizes = np.bincount(labels, x), np.bincount(labels).astype(np.float64)
    count = len(sums) if len(sums) > 1 else 0
    draws = [(c @ sums) / (c @ sizes) for c in resamples(count, samples if count else 0, seed)]
    return Resampled(float(x.mean()), np.array(draws), n)


def mean_estimate(
    values: NDArray[Any],
    clusters: NDArray[Any],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean over images with the percentile interval of the cluster bootstrap over prompts."""
    return resampled_mean(values, clusters, samples=samples, seed=seed).estimate(level)


def centered_interval(value: float, draws: Floats, level: float) -> tuple[float, float]:
    """Interval of a statistic that resampling biases: quantiles of the draws about their own mean.

    The Fréchet distance and the inception score of a resample, which holds duplicates, are
    shifted as a whole, so the draws' own quantiles may not even contain the value; their spread
    is right. What is covered is the expectation of the statistic at this N, which is what two
    cells of equal N are compared by. Under 40 draws the quantiles are Student's.
    """
    if len(draws) < 2:
        return float("nan"), float("nan")
    deviations = draws - draws.mean()
    if len(draws) < 40:
        half = float(special.stdtrit(len(draws) - 1, (1 + level) / 2) * draws.std(ddof=1))
        return value - half, value + half
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    return value + min(float(low), 0.0), value + max(float(high), 0.0)


def closer_share(
    a: NDArray[Any], b: NDArray[Any], clusters: NDArray[Any], *, level: float = 0.95
) -> Estimate:
    """Share of prompts whose mean distance under `a` is below that under `b`; a tie counts half.

    a, b: (n,) distances to the same references (for a similarity, give its negative). One
    outcome per prompt, so the interval is Wilson's: a bootstrap of a share of 0 or 1 has no width.
    `n` is the number of prompts. Source: Wilson (1927), JASA 22, eq. for the score interval.
    """
    same_length(a=a, b=b, clusters=clusters)
    labels = cluster_labels(clusters)
    gap = np.bincount(labels, np.asarray(a, np.float64) - np.asarray(b, np.float64))
    count = len(gap)
    share = float(np.where(gap < 0, 1.0, np.where(gap > 0, 0.0, 0.5)).mean())
    z2 = float(special.ndtri((1 + level) / 2)) ** 2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (share * (1 - share) / count + z2 / (4 * count**2)) ** 0.5 * z2**0.5 / (1 + z2 / count)
    return Estimate(
        share, min(max(center - half, 0.0), share), max(min(center + half, 1.0), share), count
    )
