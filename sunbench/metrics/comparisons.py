"""Differences between methods on the same prompts: corrected, equivalence, ranks, power."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sunbench.errors import UserError
from sunbench.metrics.estimate import Floats, Resampled, cluster_labels, same_length

#: Two methods are equivalent when they differ by less than this share of the floor's distance.
EQUIVALENCE_SHARE = 0.05


@dataclass(frozen=True)
class Difference:
    """A difference with its standard error; freedom: degrees of Student's t, inf for normal."""

    value: float
    error: float
    freedom: float

    def _tail(self, shift: float) -> float:
        """P(T > (value - shift) / error)."""
        if self.error == 0:
            return float(self.value < shift) + 0.5 * (self.value == shift)
        return float(special.stdtr(self.freedom, (shift - self.value) / self.error))

    def p(self) -> float:
        """Two-sided p-value of "no difference"."""
        return 2 * min(self._tail(0.0), 1 - self._tail(0.0))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval of this level."""
        half = float(special.stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.value - half, self.value + half

    def tost(self, margin: float) -> float:
        """p-value of "the difference is at least `margin` either way": small means equivalent.

        Source: Schuirmann 1987, two one-sided tests, J. Pharmacokinet. Biopharm. 15, 657-680.
        """
        if margin <= 0:
            raise UserError(f"given margin {margin}, expected one above 0")
        return max(self._tail(-margin), 1 - self._tail(margin))


def paired_difference(a: NDArray[Any], b: NDArray[Any], clusters: NDArray[Any]) -> Difference:
    """Mean of a - b over images (n,), with the standard error over prompts as clusters.

    With equally many images per prompt it is the paired t-test of prompt means. Source: Cameron &
    Miller 2015, J. Human Resources 50, eq. 11 with its correction C / (C - 1).
    """
    n = same_length(a=a, b=b, clusters=clusters)
    labels, gap = cluster_labels(clusters), np.asarray(a, np.float64) - np.asarray(b, np.float64)
    sums, sizes, mean = np.bincount(labels, gap), np.bincount(labels), float(gap.mean())
    count = len(sums)
    if count < 2:
        raise UserError("given images of 1 prompt, expected at least 2 to compare methods")
    square = float(np.square(sums - sizes * mean).sum()) * count / (count - 1)
    return Difference(mean, square**0.5 / n, count - 1)


def resampled_difference(a: Resampled, b: Resampled) -> Difference:
    """Difference of two statistics of sets, its standard error from their common draws."""
    change = a.minus(b)
    error = float(change.draws.std(ddof=1)) if len(change.draws) > 1 else float("nan")
    freedom = np.inf if len(change.draws) >= 40 else len(change.draws) - 1
    return Difference(change.value, error, freedom)


def holm(p: Sequence[float]) -> Floats:
    """p-values corrected for their number, in the given order.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70: step-down, any dependence.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    out = np.empty_like(values)
    out[order] = np.minimum(steps, 1.0)
    return out


@dataclass(frozen=True)
class Comparison:
    """A difference among several: simultaneous interval, Holm's p, and whether it is nothing.

    equivalent: the difference is shown to be within the margin; None without a margin.
    """

    difference: float
    difference_low: float
    difference_high: float
    p_holm: float
    equivalent: bool | None


def compared(
    differences: Sequence[Difference], margins: Sequence[float | None], level: float = 0.95
) -> list[Comparison]:
    """All differences that are shown together.

    Intervals hold together at `level` (Bonferroni), so one that excludes 0 has a Holm p below
    1 - level. Equivalence is Holm's too, over the tests of equivalence.
    """
    count = max(1, len(differences))
    corrected = holm([d.p() for d in differences])
    with_margin = [(k, m) for k, m in enumerate(margins) if m is not None]
    tests = holm([differences[k].tost(m) for k, m in with_margin])
    same = {k: bool(p < 1 - level) for (k, _), p in zip(with_margin, tests, strict=True)}
    out = []
    for k, (d, p) in enumerate(zip(differences, corrected, strict=True)):
        low, high = d.interval(1 - (1 - level) / count)
        out.append(Comparison(d.value, low, high, float(p), same.get(k)))
    return out


Named = TypeVar("Named", bound=Hashable)


def rank_intervals(
    names: Sequence[Named], closer: Sequence[tuple[Named, Named]]
) -> dict[Named, tuple[int, int]]:
    """Ranks that each method may have: first and last, 1 being the best.

    closer: pairs (a, b) where a is shown to be better than b, corrected for all pairs; then all
    intervals hold together. Source: Al Mohamad, Goeman & van Zwet 2022, Biometrics 78, sec. 2.
    """
    above = {n: sum(b == n for _, b in closer) for n in names}
    below = {n: sum(a == n for a, _ in closer) for n in names}
    return {n: (1 + above[n], len(names) - below[n]) for n in names}


def minimum_detectable_effect(
    deviation: float, prompts: int, *, comparisons: int = 1, level: float = 0.95, power: float = 0.8
) -> float:
    """The smallest difference that so many prompts show with this power, after the correction.

    deviation: standard deviation over prompts of the paired difference (of prompt means), of a
    pilot or of an earlier run. Source: Cohen 1988, ch. 2, with Student's quantiles.
    """
    if prompts < 2:
        raise UserError(f"given {prompts} prompt, expected at least 2")
    freedom = prompts - 1
    quantiles = special.stdtrit(freedom, [1 - (1 - level) / (2 * comparisons), power])
    return float(quantiles.sum() * deviation / prompts**0.5)
