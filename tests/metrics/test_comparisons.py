"""Comparisons of methods: closed forms, scipy, and simulated error rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sunbench.errors import UserError
from sunbench.metrics import resampled_mean
from sunbench.metrics.comparisons import (
    Difference,
    compared,
    holm,
    minimum_detectable_effect,
    paired_difference,
    rank_intervals,
    resampled_difference,
)

rng = np.random.default_rng


def test_equal_prompts_give_the_paired_t_test_of_prompt_means():
    a, b = rng(0).standard_normal((2, 40, 3))
    d = paired_difference(a.ravel(), b.ravel() + 0.2, np.repeat(np.arange(40), 3))
    theirs = stats.ttest_rel(a.mean(1), b.mean(1) + 0.2)
    assert d.p() == pytest.approx(theirs.pvalue, rel=1e-10)
    low, high = theirs.confidence_interval(0.9)
    np.testing.assert_allclose(d.interval(0.9), [low, high], rtol=1e-10)


def test_equivalence_is_two_one_sided_t_tests():
    x = rng(1).standard_normal(30) * 0.1
    d = paired_difference(x, np.zeros(30), np.arange(30))
    above = stats.ttest_1samp(x, -0.05, alternative="greater").pvalue
    below = stats.ttest_1samp(x, 0.05, alternative="less").pvalue
    assert d.tost(0.05) == pytest.approx(max(above, below), rel=1e-9)
    with pytest.raises(UserError, match="expected one above 0"):
        d.tost(0.0)


def test_no_spread_at_all():
    same, apart = Difference(0.0, 0.0, 9), Difference(1.0, 0.0, 9)
    assert (same.p(), apart.p()) == (1.0, 0.0)
    assert (same.tost(0.1), apart.tost(0.1)) == (0.0, 1.0)
    with pytest.raises(UserError, match="1 prompt"):
        paired_difference(np.zeros(3), np.ones(3), np.zeros(3))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0
    np.testing.assert_array_equal(holm([0.9, 0.8]), [1, 1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni(p):
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(np.array(p) * len(p), 1) + 1e-12).all()


def test_an_interval_that_excludes_zero_has_a_small_corrected_p():
    differences = [Difference(v, 1.0, 50) for v in (0.5, 2.5, -3.0, 4.0)]
    for c in compared(differences, [None] * 4):
        assert c.equivalent is None
        if not c.difference_low <= 0 <= c.difference_high:
            assert c.p_holm < 0.05


def test_equivalent_and_different_are_told_apart():
    near, far, unsure = Difference(0.01, 0.01, 99), Difference(2.0, 0.01, 99), Difference(0, 1, 99)
    assert [c.equivalent for c in compared([near, far, unsure], [0.1] * 3)] == [True, False, False]


def test_family_wise_error_holds_and_without_correction_does_not():
    """Five methods of one law: how often any of ten comparisons is called a difference."""
    g, false = rng(2), np.zeros(2)
    for _ in range(400):
        x = g.standard_normal((5, 30)) + g.standard_normal(30)  # prompts are shared
        pairs = [(i, j) for i in range(5) for j in range(i)]
        ds = [paired_difference(x[i], x[j], np.arange(30)) for i, j in pairs]
        false += [
            min(c.p_holm for c in compared(ds, [None] * 10)) < 0.05,
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
