"""Fréchet distance: closed forms, properties, oracles, interval."""

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.metrics import Moments, ReferenceFactor, fd, fd_estimate, frechet
from sunbench.metrics.estimate import image_resamples
from sunbench.metrics.frechet import _by_covariance, _Gram, default_samples

rng = np.random.default_rng


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    g = rng(seed)
    return g.standard_normal((n, d)) @ g.standard_normal((d, d)) / d**0.5 + shift


def test_zeros_against_ones_is_the_dimension():
    assert fd(np.zeros((50, 7)), np.ones((50, 7))) == 7
    assert fd(np.zeros((5, 7)), np.ones((5, 7))) == 7


def test_diagonal_gaussians():
    a, b = rng(0).uniform(0.1, 3, (2, 20))
    mean, n = np.linspace(-1, 1, 20), 10**6
    p = Moments(n, np.zeros(20), np.diag(a) * (n - 1))
    q = Moments(n, mean, np.diag(b) * (n - 1))
    expected = mean @ mean + ((a**0.5 - b**0.5) ** 2).sum()
    assert frechet(ReferenceFactor.of(p), q) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(100, 10), (10, 100), (40, 40), (41, 40)])
def test_scaled_copy_above_and_below_the_dimension(n, d):
    x = features(n, d, 1)
    trace = np.trace(Moments.of(x).covariance)
    mean = x.mean(0)
    expected = 0.25 * (mean @ mean + trace)  # y = 1.5 x: (1.5 - 1)^2 of everything
    assert fd(x, 1.5 * x) == pytest.approx(expected, rel=1e-9)


def test_both_forms_agree_below_the_dimension():
    x, y = features(60, 100, 2), features(60, 100, 3, 0.2)
    direct = frechet(ReferenceFactor.of(Moments.of(x)), Moments.of(y))
    assert fd(x, y) == pytest.approx(direct, rel=1e-9)


@pytest.mark.oracle
def test_equals_scipy_sqrtm():
    x, y = features(500, 64, 4), features(500, 64, 5, 0.3)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(0) - y.mean(0)
    expected = gap @ gap + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert fd(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.oracle
def test_equals_clean_fid_torch_fidelity_and_torchmetrics_on_the_same_features():
    import torch
    from cleanfid import fid as clean
    from torch_fidelity import metric_fid
    from torchmetrics.image.fid import _compute_fid

    x, y = (torch.from_numpy(features(300, 32, s, 0.1 * s)) for s in (6, 7))
    p, q = (metric_fid.fid_features_to_statistics(t) for t in (x, y))
    value = fd(x.numpy(), y.numpy())
    fidelity = metric_fid.fid_statistics_to_metric(p, q, False)["frechet_inception_distance"]
    with warnings.catch_warnings():  # scipy deprecates sqrtm's disp, which clean-fid passes
        warnings.simplefilter("ignore", DeprecationWarning)
        cleanfid = clean.frechet_distance(p["mu"], p["sigma"], q["mu"], q["sigma"])
    tm = _compute_fid(*(torch.from_numpy(s[k]) for s in (p, q) for k in ("mu", "sigma")))
    np.testing.assert_allclose([fidelity, cleanfid, float(tm)], value, rtol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 10**6))
def test_symmetric_non_negative_zero_on_itself_and_blind_to_order(n, d, seed):
    x, y = features(n, d, seed), features(n, d, seed + 1, 0.5)
    value, scale = fd(x, y), np.square(x).sum() + np.square(y).sum()
    assert value >= 0
    assert fd(y, x) == pytest.approx(value, abs=1e-6 * scale)
    assert fd(x, x) == pytest.approx(0, abs=1e-6 * scale)
    order = rng(seed).permutation(n)
    assert fd(x[order], y) == pytest.approx(value, abs=1e-6 * scale)


@given(st.integers(1, 40), st.integers(1, 17))
def test_moments_do_not_depend_on_the_blocks(n, block):
    x = features(n, 5, 8, 100.0).astype(np.float32)
    whole, parts = Moments.of(x), Moments.of(x, block=block)
    assert whole.n == parts.n == n
    np.testing.assert_allclose(parts.mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.scatter, whole.scatter, atol=1e-8)


def test_moments_equal_numpy_covariance():
    x = features(200, 6, 9, 50.0)
    np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x, rowvar=False), rtol=1e-10)


def test_different_n_is_never_compared():
    x, y = features(20, 3, 0), features(21, 3, 0)
    for call in (
        lambda: fd(x, y),
        lambda: frechet(ReferenceFactor.of(Moments.of(x)), Moments.of(y)),
        lambda: fd_estimate(x, y, np.arange(20)),
        lambda: fd_estimate(x, x, np.arange(21)),
    ):
        with pytest.raises(UserError, match="different N are never compared"):
            call()


def test_one_image_is_an_error():
    with pytest.raises(UserError, match="at least 2"):
        fd(np.zeros((1, 3)), np.zeros((1, 3)))


def test_estimate_is_seeded_contains_the_value_and_takes_few_resamples():
    x, y = features(120, 6, 12), features(120, 6, 13, 0.3)
    prompts = np.arange(120) // 2
    e = fd_estimate(x, y, prompts)
    assert e == fd_estimate(x, y, prompts)
    assert e != fd_estimate(x, y, prompts, seed=1)
    assert e.low < e.value == fd(x, y) < e.high
    few = fd_estimate(x, y, prompts, samples=8)
    assert few.low < few.value < few.high
    assert np.isnan(fd_estimate(x, y, prompts, samples=0).low)
    assert np.isnan(fd_estimate(x, y, np.zeros(120)).high)


def test_estimate_below_the_dimension_and_of_identical_sets():
    x, y = features(30, 50, 14), features(30, 50, 15, 0.3)
    e = fd_estimate(x, y, np.arange(30), samples=50)
    assert 0 <= e.low < e.value < e.high
    same = fd_estimate(x, x, np.arange(30), samples=50)
    np.testing.assert_allclose([same.value, same.low, same.high], 0, atol=1e-9)


def test_equal_sets_are_at_exactly_no_distance():
    x = 40 * features(300, 16, 1)
    same = fd_estimate(x, x, np.arange(300), samples=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(("n", "d"), [(40, 60), (60, 45), (30, 200)])
def test_draws_by_inner_products_equal_draws_by_covariances(n, d):
    x, y = features(n, d, 20, 3.0), features(n, d, 21, 3.2)
    for w in image_resamples(np.arange(n) // 2, 4, 0):
        expected = _by_covariance(x, y, w)
        assert _Gram(x, y).distance(w) == pytest.approx(expected, rel=1e-6)
        assert _Gram(x, y).distance(w, exact=True) == pytest.approx(expected, rel=1e-6)


def test_a_draw_is_the_distance_of_the_drawn_rows():
    x, y = features(50, 4, 22), features(50, 4, 23, 0.3)
    w = next(image_resamples(np.arange(50), 1, 0))
    rows = np.repeat(np.arange(50), w.astype(int))
    assert _by_covariance(x, y, w) == pytest.approx(fd(x[rows], y[rows]), rel=1e-9)


def test_inception_features_take_two_hundred_resamples_at_the_usual_sizes():
    assert default_samples(1000, 2048) == default_samples(2000, 2048) == 200
    assert default_samples(3000, 2048) == 40
    assert default_samples(30000, 2048) == 8
    assert default_samples(10000, 512) == 200


def coverage(n: int, d: int, gap: float, trials: int) -> float:
    """Share of paired Gaussian data sets whose interval holds the mean distance at this N."""
    g = rng(16)

    def pair():
        x = g.standard_normal((n, d))
        return x, 0.6 * x + 0.8 * g.standard_normal((n, d)) + gap

    truth = np.mean([fd(*pair()) for _ in range(500)])
    held = 0
    for seed in range(trials):
        e = fd_estimate(*pair(), np.arange(n), samples=100, seed=seed)
        held += e.low <= truth <= e.high
    return held / trials


@pytest.mark.parametrize(("n", "d", "gap"), [(200, 8, 0.3), (200, 32, 0.1)])
def test_interval_covers_near_its_level(n, d, gap):
    share = coverage(n, d, gap, 100)
    assert 0.88 <= share <= 1.0, share
