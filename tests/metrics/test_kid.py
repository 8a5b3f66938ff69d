"""Kernel distance: brute force, oracles, unbiasedness, interval."""

import numpy as np
import pytest

from sunbench.errors import UserError
from sunbench.metrics import kid, kid_estimate, kid_subsets
from sunbench.metrics.kid import _mmd2, kernel

rng = np.random.default_rng


def sets(n: int, d: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = rng(seed)
    return g.standard_normal((n, d)), g.standard_normal((n, d)) + shift


@pytest.mark.oracle
def test_equals_torch_fidelity_torchmetrics_and_clean_fid_on_one_whole_subset():
    import torch
    from cleanfid.fid import kernel_distance
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    x, y = sets(80, 12, 0.4)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    fidelity = kid_features_to_metric(tx, ty, kid_subsets=1, kid_subset_size=80, verbose=False)
    others = [
        fidelity["kernel_inception_distance_mean"],
        float(poly_mmd(tx, ty)),
        kernel_distance(x, y, num_subsets=1, max_subset_size=80),
    ]
    np.testing.assert_allclose(others, kid(x, y), rtol=1e-9)
    assert kid_subsets(x, y, subsets=1) == pytest.approx(kid(x, y), rel=1e-9)


def test_larger_than_one_block_equals_the_whole_matrix():
    x, y = sets(1100, 4, 0.2)
    k = [kernel(a, b) for a, b in ((x, x), (y, y), (x, y))]
    n = len(x)
    within = sum(m.sum() - np.trace(m) for m in k[:2]) / (n * (n - 1))
    assert kid(x, y) == pytest.approx(within - 2 * k[2].mean(), rel=1e-9)


def test_weights_are_copies_that_make_no_pair_with_themselves():
    x, y = sets(6, 3, 0.5)
    w = np.array([2, 0, 1, 1, 0, 2])
    rows = np.repeat(np.arange(6), w)
    different = rows[:, None] != rows[None, :]
    within = sum((kernel(a[rows], a[rows]) * different).sum() for a in (x, y)) / different.sum()
    expected = within - 2 * kernel(x[rows], y[rows]).mean()
    assert _mmd2(x, y, w[None].astype(float))[0] == pytest.approx(expected, rel=1e-12)


def test_unbiased_at_few_images():
    values = [kid(*sets(20, 5, 0.0, seed)) for seed in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20


def test_subsets_are_seeded_and_centre_on_all_pairs():
    x, y = sets(200, 5, 0.5)
    a = kid_subsets(x, y, subset_size=50)
    assert a == kid_subsets(x, y, subset_size=50)
    assert a != kid_subsets(x, y, subset_size=50, seed=1)
    assert a == pytest.approx(kid(x, y), rel=0.1)


def test_estimate_is_seeded_and_contains_the_value():
    x, y = sets(60, 5, 0.5)
    e = kid_estimate(x, y, np.arange(60) // 2)
    assert e == kid_estimate(x, y, np.arange(60) // 2)
    assert e.low < e.value == kid(x, y) < e.high
    assert np.isnan(kid_estimate(x, y, np.zeros(60)).low)


def test_different_n_and_one_image_are_errors():
    x, y = sets(5, 3, 0.0)
    with pytest.raises(UserError, match="different N"):
        kid(x, y[:4])
    with pytest.raises(UserError, match="at least 2"):
        kid(x[:1], y[:1])
