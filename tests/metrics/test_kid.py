"""Kernel distance: brute force, oracles, unbiasedness with shared prompts, interval."""

import numpy as np
import pytest
from kid_reference import kid_independent

from sunbench.errors import UserError
from sunbench.metrics import kid, kid_estimate
from sunbench.metrics.kid import _mmd2, kernel

rng = np.random.default_rng


def sets(n: int, d: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = rng(seed)
    return g.standard_normal((n, d)), g.standard_normal((n, d)) + shift


def shared(prompts: int, seeds: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of one law that show the same prompts: most of an image is its prompt's."""
    g = rng(seed)
    prompt = np.repeat(g.standard_normal((prompts, d)), seeds, 0)
    x, y = (prompt + 0.3 * g.standard_normal(prompt.shape) for _ in range(2))
    return x, y


@pytest.mark.oracle
def test_independent_sets_equal_torch_fidelity_torchmetrics_and_clean_fid():
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
    np.testing.assert_allclose(others, kid_independent(x, y), rtol=1e-9)


def by_hand(x: np.ndarray, y: np.ndarray, prompts: np.ndarray) -> float:
    """Mean of k(x, x') + k(y, y') - 2 k(x, y') over all pairs of different prompts."""
    different = prompts[:, None] != prompts[None]
    k = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    return float(k[different].mean())


@pytest.mark.parametrize("seeds", [1, 3])
def test_larger_than_one_block_equals_the_whole_matrix(seeds):
    x, y = sets(1101, 4, 0.2)
    prompts = np.arange(1101) // seeds
    assert kid(x, y, prompts) == pytest.approx(by_hand(x, y, prompts), rel=1e-9)


def test_weights_are_copies_that_make_no_pair_with_themselves():
    x, y = sets(6, 3, 0.5)
    prompts, w = np.array([0, 0, 1, 1, 2, 2]), np.array([2, 2, 1, 1, 0, 0])
    rows = np.repeat(np.arange(6), w)
    expected = by_hand(x[rows], y[rows], prompts[rows])
    assert _mmd2(x, y, w[None].astype(float), prompts)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seeds", [1, 2])
def test_expectation_is_zero_under_one_law_with_shared_prompts(seeds):
    """The literature's estimator is far below zero here: same-prompt pairs are in its cross term."""
    drawn = [shared(24, seeds, 5, trial) for trial in range(300)]
    prompts = np.repeat(np.arange(24), seeds)
    ours = np.array([kid(x, y, prompts) for x, y in drawn])
    theirs = np.array([kid_independent(x, y) for x, y in drawn])
    error = ours.std() / len(ours) ** 0.5
    assert abs(ours.mean()) < 3 * error
    assert theirs.mean() < -10 * error


def test_expectation_is_the_law_s_own_distance():
    """Features of one coordinate with prompt means m: E over prompts in closed form.

    x = m + e, y = m + e + 1 with m, e standard normal: k(a, b) = (ab + 1)^3 with ab of different
    prompts; moments of N(0, 2) are 2 and 12 for the second and fourth, and 0 for odd ones.
    """
    s2 = 2.0
    inner_x = 1 + 3 * s2**2  # E (ab)^2 = s2^2, odd powers vanish
    m1, m2, m3 = 1.0, s2 + 1, 3 * s2 + 1  # of y ~ N(1, 2)
    inner_y = m3**2 + 3 * m2**2 + 3 * m1**2 + 1
    cross = 3 * s2 * m2 + 1  # E x = E x^3 = 0
    truth = inner_x + inner_y - 2 * cross
    g, values = rng(5), []
    for _ in range(400):
        m = g.standard_normal((40, 1))
        x, y = m + g.standard_normal((40, 1)), m + g.standard_normal((40, 1)) + 1
        values.append(kid(x, y, np.arange(40)))
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / 20)


def test_estimate_is_seeded_and_contains_the_value():
    x, y = sets(60, 5, 0.5)
    prompts = np.arange(60) // 2
    e = kid_estimate(x, y, prompts)
    assert e == kid_estimate(x, y, prompts)
    assert e.low < e.value == kid(x, y, prompts) < e.high


def test_different_n_one_image_and_one_prompt_are_errors():
    x, y = sets(5, 3, 0.0)
    with pytest.raises(UserError, match="different N"):
        kid(x, y[:4], np.arange(5))
    with pytest.raises(UserError, match="at least 2"):
        kid(x[:1], y[:1], np.arange(1))
    with pytest.raises(UserError, match="images of 1 prompt"):
        kid(x, y, np.zeros(5))
