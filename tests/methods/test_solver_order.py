"""Orders of convergence against an exact solution.

For data N(0, s^2) the ideal noise prediction is eps = sigma_t x / (alpha_t^2 s^2 + sigma_t^2), and
the probability-flow ODE multiplies x by the square root of the marginal variance's ratio. On a
schedule whose log-SNR is linear in t the solvers' steps are uniform, so that orders show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sunbench import registry

DATA = 0.5  # standard deviation s of the data
TRAIN = 8192  # timesteps: divisible by every count below, so that rounding does not spoil slopes
HALF_LOG_SNR = (-3.5, 3.5)


def _betas() -> list[float]:
    lam = np.linspace(HALF_LOG_SNR[1], HALF_LOG_SNR[0], TRAIN)
    alpha_bar = 1 / (1 + np.exp(-2 * lam))
    kept = alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return (1 - kept).tolist()


BETAS = _betas()


def scheduler(name: str) -> Any:
    return registry.method(name).solver.build(
        {"num_train_timesteps": TRAIN, "trained_betas": BETAS, "prediction_type": "epsilon"}
    )


def spread(alpha_bar: float) -> float:
    """Standard deviation of x_t."""
    return float(np.sqrt(alpha_bar * DATA**2 + 1 - alpha_bar))


def relative_error(name: str, steps: int, share: float) -> float:
    """Error after a share of the steps, where the solver then stands; 1 means the end."""
    solver = scheduler(name)
    solver.set_timesteps(steps)
    table = solver.alphas_cumprod.double().numpy()
    times = [int(t) for t in solver.timesteps]
    x = torch.full((1, 1, 1, 1), spread(table[times[0]]), dtype=torch.float64)
    done = int(steps * share)
    for t in times[:done]:
        a = table[t]
        eps = x * np.sqrt(1 - a) / spread(a) ** 2
        x = solver.step(eps, t, x).prev_sample.double()
    end = table[times[done]] if done < steps else table[0]
    return abs(float(x) / spread(end) - 1)


def slope(name: str, counts: list[int], share: float) -> float:
    errors = [relative_error(name, n, share) for n in counts]
    return float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize(
    ("name", "share", "order"),
    [
        ("ddim", 1.0, 1),
        ("ddim", 0.75, 1),
        ("ddim-leading", 0.75, 1),
        ("dpm-solver", 1.0, 2),
        ("dpm-solver", 0.75, 2),
        ("ipndm", 0.75, 2),  # of fourth order where steps are even in sigma / alpha
        ("dpm++", 0.5, 2),  # not to the end: to sigma zero its last step is of first order
    ],
)
def test_order_of_convergence(name: str, share: float, order: int):
    assert slope(name, [32, 64, 128, 256], share) == pytest.approx(-order, abs=0.1)


def test_unipc_gains_an_order_by_its_corrector():
    """UniPC-p with its corrector is of order p + 1 (Zhao et al. 2023, Theorem 3.1)."""
    assert slope("unipc", [16, 32, 64, 128], 0.5) == pytest.approx(-3, abs=0.15)


def test_few_steps_rank_the_solvers_as_the_papers_do():
    errors = [relative_error(name, 16, 0.5) for name in ("ddim", "dpm++", "unipc")]
    assert errors == sorted(errors, reverse=True)
