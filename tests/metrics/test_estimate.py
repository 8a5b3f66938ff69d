"""Intervals: closed forms, clusters, coverage, and errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sunbench.errors import UserError
from sunbench.metrics import closer_share, mean_estimate
from sunbench.metrics.estimate import centered_interval


def test_single_image_prompts_give_the_normal_interval():
    x = np.random.default_rng(0).standard_normal(2000)
    e = mean_estimate(x, np.arange(2000), samples=4000)
    half = 1.96 * x.std() / math.sqrt(2000)
    assert e.value == x.mean()
    assert e.n == 2000
    np.testing.assert_allclose([e.value - e.low, e.high - e.value], half, rtol=0.08)


def test_copies_of_an_image_within_its_prompt_add_no_certainty():
    x = np.random.default_rng(1).standard_normal(50)
    once = mean_estimate(x, np.arange(50))
    thrice = mean_estimate(np.repeat(x, 3), np.repeat(np.arange(50), 3))
    np.testing.assert_allclose([once.low, once.high], [thrice.low, thrice.high], rtol=1e-12)
    assert thrice.n == 150


def test_cluster_interval_covers_and_the_image_interval_does_not():
    rng, covered = np.random.default_rng(2), np.zeros(2)
    prompts = np.repeat(np.arange(40), 4)
    for trial in range(200):
        x = rng.standard_normal(40)[prompts] + 0.3 * rng.standard_normal(160)
        for k, clusters in enumerate((prompts, np.arange(160))):
            e = mean_estimate(x, clusters, samples=200, seed=trial)
            covered[k] += e.low <= 0 <= e.high
    assert 0.89 < covered[0] / 200 < 0.99
    assert covered[1] / 200 < 0.80


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 5)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_value_is_inside_and_order_does_not_matter(rows, random):
    def estimate(pairs):
        values, clusters = zip(*pairs, strict=True)
        return mean_estimate(np.array(values), np.array(clusters), samples=50)

    e = estimate(rows)
    if len({c for _, c in rows}) == 1:
        assert math.isnan(e.low)
        assert math.isnan(e.high)
        return
    assert e.low <= e.value <= e.high
    shuffled = estimate(random.sample(rows, len(rows)))
    np.testing.assert_allclose([e.low, e.high], [shuffled.low, shuffled.high], atol=1e-9)


def test_names_serve_as_clusters():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert mean_estimate(x, np.array(list("aabb"))) == mean_estimate(x, np.array([0, 0, 1, 1]))


def test_different_counts_are_an_error():
    with pytest.raises(UserError, match="given 3 values, 2 clusters"):
        mean_estimate(np.zeros(3), np.zeros(2))
    with pytest.raises(UserError, match="at least one"):
        mean_estimate(np.zeros(0), np.zeros(0))


def test_share_is_wilsons_over_prompts():
    a = np.r_[np.zeros(30), np.full(10, 2.0)]
    e = closer_share(np.repeat(a, 2), np.ones(80), np.repeat(np.arange(40), 2))
    ci = stats.binomtest(30, 40).proportion_ci(method="wilson")
    np.testing.assert_allclose([e.value, e.low, e.high], [0.75, ci.low, ci.high], rtol=1e-12)
    assert e.n == 40


def test_share_of_all_prompts_still_has_width():
    e = closer_share(np.zeros(20), np.ones(20), np.arange(20))
    assert e.value == e.high == 1
    assert 0.8 < e.low < 0.9


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_shares_of_both_directions_add_to_one(rows):
    a, b = np.array(rows, float).T
    clusters = np.arange(len(rows))
    there, back = closer_share(a, b, clusters), closer_share(b, a, clusters)
    assert there.value + back.value == pytest.approx(1)
    assert there.low + back.high == pytest.approx(1)
    assert there.low <= there.value <= there.high


def test_centered_interval_forgets_a_shift_of_all_draws():
    draws = np.random.default_rng(3).standard_normal(1000)
    np.testing.assert_allclose(
        centered_interval(5.0, draws + 7, 0.9), centered_interval(5.0, draws, 0.9), atol=1e-12
    )
    low, high = centered_interval(5.0, draws[:8], 0.95)
    half = 2.3646 * draws[:8].std(ddof=1)
    np.testing.assert_allclose([low, high], [5 - half, 5 + half], rtol=1e-4)
