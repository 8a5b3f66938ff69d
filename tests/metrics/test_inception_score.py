"""Inception score: closed forms and torch-fidelity's value."""

import numpy as np
import pytest

from sunbench.errors import UserError
from sunbench.metrics import inception_score, resampled_inception_score


def probabilities(n: int, classes: int) -> np.ndarray:
    logits = 2 * np.random.default_rng(0).standard_normal((n, classes))
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True)


def test_uniform_is_one_and_balanced_certainty_is_the_number_of_classes():
    assert inception_score(np.full((20, 5), 0.2)) == pytest.approx(1)
    assert inception_score(np.tile(np.eye(5), (4, 1)), splits=1) == pytest.approx(5)


@pytest.mark.oracle
@pytest.mark.parametrize("splits", [1, 3])
def test_equals_torch_fidelity(splits):
    import torch
    from torch_fidelity.metric_isc import isc_features_to_metric

    p = probabilities(50, 8)
    order = np.random.default_rng(4).permutation(50)
    logits = torch.from_numpy(np.log(p[order]))
    expected = isc_features_to_metric(logits, splits=splits, shuffle=False)["inception_score_mean"]
    assert inception_score(p, splits=splits, seed=4) == pytest.approx(expected, rel=1e-9)


def test_estimate_contains_the_value():
    p = probabilities(100, 8)
    e = resampled_inception_score(p, np.arange(100) // 2).estimate()
    assert e.low < e.value == inception_score(p) < e.high
    assert e.n == 100


def test_more_splits_than_images_is_an_error():
    with pytest.raises(UserError, match="given 10 splits"):
        inception_score(probabilities(5, 3))
