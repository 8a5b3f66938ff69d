"""What a Fréchet distance owes to N: simulation against closed forms."""

import numpy as np
import pytest

from sunbench.errors import UserError
from sunbench.metrics import fd
from sunbench.metrics.finite_n import FiniteN, finite_n, mean_bias, order_changes


def paired(n: int, d: int, gap: float, g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = g.standard_normal((n, d))
    return x, 0.8 * x + 0.6 * g.standard_normal((n, d)) + gap


def test_mean_bias_is_the_trace_of_the_difference_over_n():
    """x - y = 0.2 x - 0.6 e: trace (0.04 + 0.36) d, over N; its share of |m_r - m_c|^2 as well."""
    g, n, d = np.random.default_rng(0), 200, 5
    drawn = [paired(n, d, 0.0, g) for _ in range(200)]
    expected = 0.4 * d / n
    estimates = [mean_bias(x, y, np.arange(n)) for x, y in drawn]
    squares = [np.square(x.mean(0) - y.mean(0)).sum() for x, y in drawn]
    assert np.mean(estimates) == pytest.approx(expected, rel=0.02)
    assert np.mean(squares) == pytest.approx(expected, rel=0.15)


def test_mean_bias_takes_prompts_as_clusters():
    g = np.random.default_rng(1)
    x, y = paired(100, 4, 0.0, g)
    twice = [np.repeat(z, 2, 0) for z in (x, y)]
    once = mean_bias(x, y, np.arange(100))
    assert mean_bias(*twice, np.repeat(np.arange(100), 2)) == pytest.approx(once, rel=1e-12)
    assert mean_bias(*twice, np.arange(200)) < 0.6 * once


def test_infinity_is_nearer_to_the_truth_than_n_is():
    """y = x + gap + independent noise of one law: fd at infinity is gap^2 d."""
    g, d, gap = np.random.default_rng(2), 6, 0.2
    held = [finite_n(*paired(150, d, gap, g), np.arange(150)) for _ in range(60)]
    truth = gap**2 * d
    at_n, beyond = (np.mean([getattr(h, f) for h in held]) - truth for f in ("value", "infinity"))
    assert at_n > 0.02
    assert abs(beyond) < 0.3 * at_n


def test_halves_are_seeded_and_larger():
    x, y = paired(80, 4, 0.1, np.random.default_rng(3))
    h = finite_n(x, y, np.arange(80) // 2)
    assert h == finite_n(x, y, np.arange(80) // 2)
    assert h.value == fd(x, y)
    assert h.half > h.value > h.infinity
    with pytest.raises(UserError, match="at least 4"):
        finite_n(x, y, np.arange(80) // 40)


def test_an_order_that_depends_on_n_is_named():
    steady = FiniteN(1.0, 1.2, 0.8, 0.0)
    noisy = FiniteN(1.1, 1.5, 0.7, 0.0)
    worse = FiniteN(2.0, 2.2, 1.8, 0.0)
    assert order_changes({"a": steady, "b": noisy, "c": worse}) == [("a", "b")]
