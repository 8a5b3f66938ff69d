"""CLIP score and cosine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.metrics import clip_score, cosine


def test_angles():
    a = np.array([[1, 0], [1, 1], [1, 0], [-1, 0]], np.float32)
    b = np.array([[2, 0], [3, 0], [0, 5], [1, 0]], np.float32)
    np.testing.assert_allclose(clip_score(a, b), [100, 100 / 2**0.5, 0, -100], atol=1e-12)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_length_does_not_matter(s, t):
    a, b = np.random.default_rng(0).standard_normal((2, 4, 8))
    np.testing.assert_allclose(cosine(s * a, t * b), cosine(a, b), rtol=1e-10)


def test_shapes_must_match():
    with pytest.raises(UserError, match="different N"):
        clip_score(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(UserError, match="expected one shape"):
        cosine(np.ones((3, 2)), np.ones((3, 4)))
