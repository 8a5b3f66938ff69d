"""The diffusion that every training here is about: schedule, noise, DDIM steps.

Notation: alpha_t = sqrt(alphas_cumprod[t]) and sigma_t = sqrt(1 - alphas_cumprod[t]); t and s are
times in 0..1, s the end of a stage that begins at t; an index is a timestep of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

#: (noisy latents (B, C, h, w), timestep indices (B,)) -> predicted noise (B, C, h, w).
Predict = Callable[[Tensor, Tensor], Tensor]


class Level(NamedTuple):
    """alpha and sigma of each image: (B, 1, 1, 1)."""

    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class Schedule:
    """The base's noise schedule on trailing timesteps; alpha, sigma: (T,)."""

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, alphas_cumprod: Tensor) -> Schedule:
        """From diffusers' table (T,)."""
        return cls(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())

    def index(self, t: Tensor) -> Tensor:
        """Timestep of a time: 1 -> 999, 0.75 -> 749, ..., 0 -> 0, as DDIM's trailing grid has it.

        The end of the grid is timestep 0, what ``set_alpha_to_one=False`` makes of -1.
        """
        n = len(self.alpha)
        return ((t * n).round().long() - 1).clamp(0, n - 1)

    def level(self, t: Tensor) -> Level:
        """alpha_t and sigma_t of times (B,)."""
        return self.at(self.index(t))

    def at(self, index: Tensor) -> Level:
        """alpha_t and sigma_t of timesteps (B,)."""
        return Level(self.alpha[index][:, None, None, None], self.sigma[index][:, None, None, None])


# ------------------------------------------------------------------------------ formulas


def guided_eps(eps_p: Tensor, eps_n: Tensor, w: float | Tensor) -> Tensor:
    """Noise under classifier-free guidance, w e_p + (1 - w) e_n (SUN Eq. 2)."""
    return w * eps_p + (1 - w) * eps_n


def noised(x_0: Tensor, eps: Tensor, at: Level) -> Tensor:
    """x_t ~ q(x_t | x_0) = alpha_t x_0 + sigma_t eps."""
    return at.alpha * x_0 + at.sigma * eps


def denoised(x_t: Tensor, eps: Tensor, at: Level) -> Tensor:
    """x_0 by the noise in x_t."""
    return (x_t - at.sigma * eps) / at.alpha


def ddim_step(x_t: Tensor, eps: Tensor, at: Level, to: Level) -> Tensor:
    """One DDIM step (Song et al. 2021, Eq. 12; SUN Eq. 9)."""
    return to.alpha * (x_t - at.sigma * eps) / at.alpha + to.sigma * eps


def eps_step(x_t: Tensor, x_s: Tensor, at: Level, to: Level) -> Tensor:
    """The noise that takes x_t to x_s in one DDIM step: that step solved for it (SUN Eq. 10).

    The denominator is -2.5 to -0.7 on Stable Diffusion's 4 stages, 0 only where t = s.
    """
    ratio = to.alpha / at.alpha
    return (x_s - ratio * x_t) / (to.sigma - ratio * at.sigma)


def sub_steps(t: Tensor, s: Tensor, n: int) -> Tensor:
    """The n + 1 times from t (B,) to s (B,), evenly: (n + 1, B)."""
    share = torch.arange(n + 1, device=t.device, dtype=t.dtype)[:, None] / n
    return t + share * (s - t)


def trajectory(x: Tensor, times: Tensor, schedule: Schedule, predict: Predict) -> Tensor:
    """DDIM over times (N + 1, B), one evaluation per step (Song et al. 2021, Eq. 12; SUN Eq. 9)."""
    for now, then in pairwise(times):
        eps = predict(x, schedule.index(now))
        x = ddim_step(x, eps, schedule.level(now), schedule.level(then))
    return x
