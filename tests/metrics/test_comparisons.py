"""Comparisons of methods: closed forms, scipy, and simulated error rates."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sunbench.errors import UserError
from sunbench.metrics import resampled_mean
from sunbench.metrics.comparisons import (
    Difference,
    Together,
    compared,
    minimum_detectable_effect,
    paired_difference,
    rank_intervals,
    resampled_difference,
)

rng = np.random.default_rng


def difference(
    value: float, error: float, freedom: float, parts: np.ndarray | None = None
) -> Difference:
    """A difference; without parts one that is shown alone."""
    return Difference(value, error, freedom, np.ones(1) if parts is None else parts)


def apart(*differences: tuple[float, float, float]) -> list[Difference]:
    """Differences that are not correlated."""
    return [difference(*d, parts) for d, parts in zip(differences, np.eye(9), strict=False)]


def test_equal_prompts_give_the_paired_t_test_of_prompt_means():
    a, b = rng(0).standard_normal((2, 40, 3))
    d = paired_difference(a.ravel(), b.ravel() + 0.2, np.repeat(np.arange(40), 3))
    theirs = stats.ttest_rel(a.mean(1), b.mean(1) + 0.2)
    assert d.p() == pytest.approx(theirs.pvalue, rel=1e-10)
    low, high = theirs.confidence_interval(0.9)
    np.testing.assert_allclose(d.interval(0.9), [low, high], rtol=1e-10)
    (alone,) = compared([d], [None])
    assert alone.p_adjusted == pytest.approx(theirs.pvalue, rel=1e-10)
    ends = [alone.difference_low, alone.difference_high]
    np.testing.assert_allclose(ends, theirs.confidence_interval(0.95), rtol=1e-10)


def test_equivalence_is_two_one_sided_t_tests():
    """Each at half of 5 %, as the whole 95 % interval lies within the margin."""
    x = rng(1).standard_normal(30) * 0.1
    d = paired_difference(x, np.zeros(30), np.arange(30))
    decisions = []
    for margin in np.linspace(0.01, 0.1, 40):
        above = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(x, margin, alternative="less").pvalue
        decisions.append(compared([d], [margin])[0].equivalent)
        assert decisions[-1] == (max(above, below) < 0.025)
    assert set(decisions) == {True, False}
    with pytest.raises(UserError, match="expected one above 0"):
        compared([d], [0.0])


def test_no_spread_at_all():
    same, moved = difference(0.0, 0.0, 9), difference(1.0, 0.0, 9)
    assert (same.p(), moved.p()) == (1.0, 0.0)
    for one in (compared([d], [0.1])[0] for d in (same, moved)):
        assert one.equivalent == (one.difference == 0)
    together = compared([same, moved], [None, None])
    assert [c.p_adjusted for c in together] == [1.0, 0.0]
    none = [Difference(d.value, 0.0, 9, np.zeros(10)) for d in (same, moved)]
    assert [c.p_adjusted for c in compared(none, [None] * 2)] == [1.0, 0.0]
    assert compared([], []) == []
    with pytest.raises(UserError, match="1 prompt"):
        paired_difference(np.zeros(3), np.ones(3), np.zeros(3))


# ------------------------------------------------------------------------------ max-T


@pytest.mark.parametrize("freedom", [12, 60, np.inf])
@pytest.mark.parametrize("methods", [3, 6])
def test_pairs_of_independent_methods_take_the_studentized_range(methods: int, freedom: float):
    """Tukey's honestly significant difference, which scipy has."""
    means = np.eye(methods)
    pairs = [a - b for a, b in combinations(means, 2)]
    critical = Together.of([difference(0.0, 1.0, freedom, p) for p in pairs]).critical
    tukey = stats.studentized_range.ppf(0.95, methods, freedom) / 2**0.5
    assert critical == pytest.approx(tukey, rel=0.02)


def test_what_is_not_correlated_takes_sidaks_and_copies_take_nothing():
    several = apart(*[(0.0, 1.0, np.inf)] * 9)
    sidak = stats.norm.ppf(0.5 + 0.95 ** (1 / 9) / 2)
    assert Together.of(several).critical == pytest.approx(sidak, rel=0.01)
    copies = [difference(0.0, 1.0, 30, np.arange(5.0))] * 9
    assert Together.of(copies).critical == pytest.approx(stats.t.ppf(0.975, 30), rel=0.02)


def test_draws_are_seeded_and_take_prompts_in_any_order_of_comparisons():
    parts = rng(5).standard_normal((4, 20))
    ds = [difference(0.1 * k, 1.0, 19, p) for k, p in enumerate(parts)]
    one, again = compared(ds, [None] * 4), compared(ds[::-1], [None] * 4)[::-1]
    assert [c.p_adjusted for c in one] == [c.p_adjusted for c in again]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=8), st.sampled_from([5, 50, np.inf]))
def test_corrected_p_lies_between_p_and_bonferroni_and_says_what_the_interval_says(
    values: list[float], freedom: float
):
    parts = rng(len(values)).standard_normal((len(values), 12))
    ds = [difference(v, 1.0, freedom, p) for v, p in zip(values, parts, strict=True)]
    for d, c in zip(ds, compared(ds, [None] * len(ds)), strict=True):
        assert d.p() <= c.p_adjusted <= min(d.p() * len(ds), 1) + 1e-12
        assert (not c.difference_low <= 0 <= c.difference_high) == (c.p_adjusted < 0.05)


def test_an_interval_that_excludes_zero_has_a_small_corrected_p():
    differences = apart(*((v, 1.0, 50) for v in (0.5, 2.5, -3.0, 4.0)))
    comparisons = compared(differences, [None] * 4)
    for c in comparisons:
        assert c.equivalent is None
        if not c.difference_low <= 0 <= c.difference_high:
            assert c.p_adjusted < 0.05
    assert [c.p_adjusted < 0.05 for c in comparisons] == [False, False, True, True]


def test_equivalent_and_different_are_told_apart():
    near, far, unsure = apart((0.01, 0.01, 99), (2.0, 0.01, 99), (0, 1, 99))
    shown = compared([near, far, unsure], [0.1] * 3)
    assert [c.equivalent for c in shown] == [True, False, False]
    assert all(type(c.equivalent) is bool for c in shown)  # as JSON takes it


def test_family_wise_error_holds_and_without_correction_does_not():
    """Five methods of one law: how often any of ten comparisons is called a difference."""
    g, false = rng(2), np.zeros(2)
    for _ in range(400):
        x = g.standard_normal((5, 30)) + g.standard_normal(30)  # prompts are shared
        pairs = [(i, j) for i in range(5) for j in range(i)]
        ds = [paired_difference(x[i], x[j], np.arange(30)) for i, j in pairs]
        false += [
            min(c.p_adjusted for c in compared(ds, [None] * 10)) < 0.05,
            min(d.p() for d in ds) < 0.05,
        ]
    assert false[0] / 400 <= 0.075
    assert false[1] / 400 > 0.15


def test_ranks():
    closer = [("a", "b"), ("a", "c")]
    assert rank_intervals("abc", closer) == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}
    assert rank_intervals("ab", []) == {"a": (1, 2), "b": (1, 2)}


def test_smallest_detectable_effect_is_detected_as_often_as_it_says():
    n, effect = 25, minimum_detectable_effect(1.0, 25, power=0.8)
    t = stats.nct(n - 1, effect * n**0.5)
    power = t.sf(stats.t.ppf(0.975, n - 1))
    assert power == pytest.approx(0.8, abs=0.01)
    assert minimum_detectable_effect(1.0, 25, comparisons=10) > effect
    assert minimum_detectable_effect(1.0, 100) < effect / 1.9


def test_a_difference_of_resampled_statistics_has_the_paired_error():
    x = rng(3).standard_normal((2, 300)) + 2 * rng(4).standard_normal(300)
    a, b = (resampled_mean(v, np.arange(300), samples=2000) for v in x)
    d, exact = resampled_difference(a, b), paired_difference(*x, np.arange(300))
    assert d.value == pytest.approx(exact.value)
    assert d.error == pytest.approx(exact.error, rel=0.08)
    (comparison,) = compared([d], [1.0])
    assert {
        type(x) for x in (comparison.difference, comparison.difference_low, comparison.p_adjusted)
    } == {float}
    assert type(comparison.equivalent) is bool  # and so JSON
