"""Differences between methods on the same prompts: simultaneous intervals, ranks, power.

All that is said of the differences that are shown together comes from one set of intervals that
hold together: which of two methods is closer, which are equivalent, and which ranks are possible.
"""

from __future__ import annotations

import math
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
#: Draws of the largest of several statistics, and how many are made at once.
DRAWS, BLOCK = 9_999, 500


@dataclass(frozen=True)
class Difference:
    """A difference with its standard error; freedom: degrees of Student's t, inf for normal.

    parts: what each prompt, or each draw of them, adds to it beyond the mean, (m,). Differences
    on the same prompts are correlated as their parts are.
    """

    value: float
    error: float
    freedom: float
    parts: Floats

    @property
    def t(self) -> float:
        """The size of the difference in standard errors."""
        if self.error == 0:
            return 0.0 if self.value == 0 else math.inf
        return abs(self.value) / self.error

    def p(self) -> float:
        """Two-sided p-value of "no difference"."""
        return 0.0 if math.isinf(self.t) else float(2 * special.stdtr(self.freedom, -self.t))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval of this level."""
        return self.within(float(special.stdtrit(self.freedom, (1 + level) / 2)))

    def within(self, errors: float) -> tuple[float, float]:
        """The interval of so many standard errors either way."""
        return self.value - errors * self.error, self.value + errors * self.error


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
    parts = sums - sizes * mean
    square = float(np.square(parts).sum()) * count / (count - 1)
    return Difference(mean, square**0.5 / n, count - 1, parts)


def resampled_difference(a: Resampled, b: Resampled) -> Difference:
    """Difference of two statistics of sets, its standard error from their common draws."""
    change = a.minus(b)
    error = float(change.draws.std(ddof=1)) if len(change.draws) > 1 else float("nan")
    freedom = np.inf if len(change.draws) >= 40 else len(change.draws) - 1
    return Difference(float(change.value), error, freedom, change.draws - change.draws.mean())


# ------------------------------------------------------------------------------ together


def largest_t(differences: Sequence[Difference], seed: int = 0) -> Floats:
    """How large the largest of these t gets where there is no difference at all: sorted draws.

    The parts of every prompt are multiplied by one standard normal number for all differences, so
    that each is normal and they are correlated as their parts are; Student's t follows by a common
    chi. Source: Hothorn, Bretz & Westfall 2008, Biometrical Journal 50, sec. 3 (max-T), with the
    correlations as in the multiplier bootstrap (Chernozhukov et al. 2013, Ann. Statist. 41).
    """
    parts = np.column_stack([d.parts for d in differences])
    norms = np.linalg.norm(parts, axis=0)
    parts = parts[:, norms > 0] / norms[norms > 0]
    rng, freedom = np.random.default_rng(seed), differences[0].freedom
    out = np.empty(DRAWS)
    for k in range(0, DRAWS, BLOCK):
        z = rng.standard_normal((len(out[k : k + BLOCK]), len(parts))) @ parts
        out[k : k + BLOCK] = np.abs(z).max(1, initial=0.0)
    if math.isfinite(freedom):
        out /= np.sqrt(rng.chisquare(freedom, DRAWS) / freedom)
    return np.sort(out)


@dataclass(frozen=True)
class Together:
    """Differences that are shown together, at one level for all.

    Corrected for their number by max-T; nowhere less strict than no correction, nor stricter than
    Bonferroni's. A difference alone is not corrected.
    """

    differences: Sequence[Difference]
    largest: Floats
    level: float = 0.95

    @classmethod
    def of(cls, differences: Sequence[Difference], level: float = 0.95) -> Together:
        """With the draws that the correction takes."""
        several = len(differences) > 1
        return cls(differences, largest_t(differences) if several else np.empty(0), level)

    @property
    def critical(self) -> float:
        """Half the width of every interval, in standard errors."""
        beyond, count = round(1 - self.level, 9), len(self.differences)
        freedom = self.differences[0].freedom
        alone, bonferroni = special.stdtrit(freedom, 1 - beyond / np.array([2, 2 * count]))
        if not len(self.largest):
            return float(alone)
        rank = math.ceil(beyond * (DRAWS + 1)) - 1
        return float(np.clip(self.largest[-rank], alone, bonferroni))

    def p(self, difference: Difference) -> float:
        """Corrected p-value: below 1 - level exactly where the interval excludes 0."""
        alone = difference.p()
        if not len(self.largest):
            return alone
        above = DRAWS - int(np.searchsorted(self.largest, difference.t))
        bonferroni = min(1.0, alone * len(self.differences))
        return float(np.clip((above + 1) / (DRAWS + 1), alone, bonferroni))


@dataclass(frozen=True)
class Comparison:
    """A difference among several: its simultaneous interval, and what that shows.

    p_adjusted: of "no difference", corrected; below 0.05 where the interval excludes 0.
    equivalent: the whole interval lies within the margin either way; None without a margin.
    """

    difference: float
    difference_low: float
    difference_high: float
    p_adjusted: float
    equivalent: bool | None


def compared(
    differences: Sequence[Difference], margins: Sequence[float | None], level: float = 0.95
) -> list[Comparison]:
    """All differences that are shown together, with intervals that hold together at `level`.

    That an interval lies within its margin is two one-sided tests, each at half of 1 - level.
    Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680.
    """
    if not differences:
        return []
    together = Together.of(differences, level)
    critical, out = together.critical, []
    for d, margin in zip(differences, margins, strict=True):
        low, high = d.within(critical)
        same = None if margin is None else _inside(low, high, margin)
        out.append(Comparison(d.value, low, high, together.p(d), same))
    return out


def _inside(low: float, high: float, margin: float) -> bool:
    if margin <= 0:
        raise UserError(f"given margin {margin}, expected one above 0")
    return bool(-margin < low and high < margin)


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
    pilot or of an earlier run. The correction is Bonferroni's, the most that max-T takes. Source:
    Cohen 1988, ch. 2, with Student's quantiles.
    """
    if prompts < 2:
        raise UserError(f"given {prompts} prompt, expected at least 2")
    freedom = prompts - 1
    quantiles = special.stdtrit(freedom, [1 - (1 - level) / (2 * comparisons), power])
    return float(quantiles.sum() * deviation / prompts**0.5)
