"""DPM-Solver++(2M) as a function of continuous timesteps, so that they have gradients.

At whole timesteps it is diffusers' scheduler as ``dpm++`` sets it: second order, first order in the
last step, which ends at sigma zero (Lu et al. 2022, arXiv 2211.01095, Alg. 2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: (x (B, C, h, w), timestep ()) -> predicted noise (B, C, h, w).
Noise = Callable[[Tensor, Tensor], Tensor]


def half_log_snr(alphas_cumprod: Tensor) -> Tensor:
    """log(alpha / sigma) of every timestep: (T,)."""
    return (alphas_cumprod.log() - (1 - alphas_cumprod).log()) / 2


def at(table: Tensor, timesteps: Tensor) -> Tensor:
    """A table (T,) at continuous timesteps (N,), linear between whole ones."""
    low = timesteps.detach().floor().long().clamp(0, len(table) - 2)
    return table[low] + (timesteps - low) * (table[low + 1] - table[low])


def solve(noise: Noise, x: Tensor, timesteps: Tensor, table: Tensor) -> Tensor:
    """From noise x (B, C, h, w) to x_0 over timesteps (N,), the latest first.

    table: ``half_log_snr`` of the model's schedule.
    """
    lam = at(table, timesteps)
    alpha, sigma = lam.mul(2).sigmoid().sqrt(), lam.mul(-2).sigmoid().sqrt()
    before = x_0 = x
    for k, t in enumerate(timesteps):
        before, x_0 = x_0, (x - sigma[k] * noise(x, t)) / alpha[k]
        if k == len(timesteps) - 1:
            break
        step = lam[k + 1] - lam[k]
        aim = x_0
        if k:
            aim = x_0 + step / (2 * (lam[k] - lam[k - 1])) * (x_0 - before)
        x = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * torch.expm1(-step) * aim
    return x_0


class Timesteps(nn.Module):
    """Timesteps (N,) that fall from the last of the schedule by shares of it; even at first."""

    def __init__(self, steps: int, last: int) -> None:
        super().__init__()
        self.last = last
        self.shares = nn.Parameter(torch.zeros(steps))

    def forward(self) -> Tensor:
        """(N,), the latest first; the share after the last one leads to timestep 0."""
        gone = self.shares.softmax(0).cumsum(0) - self.shares.softmax(0)
        return self.last * (1 - gone)
