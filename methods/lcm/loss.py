"""Latent consistency distillation (LCM, arXiv 2310.04378, Alg. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sunbench.methods.common.losses import Aim, Feed
from sunbench.methods.common.networks import Network
from sunbench.training.diffusion import Level, Schedule, ddim_step, denoised, noised

SIGMA_DATA, SCALING = 0.5, 10.0


def boundary(index: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out (B, 1, 1, 1) of timesteps: f(x, 0) = x (LCM, section 4.1 and app. C)."""
    scaled = SCALING * index.float()[:, None, None, None]
    size = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / size, scaled / size.sqrt()


def consistency(x_t: Tensor, eps: Tensor, index: Tensor, at: Level) -> Tensor:
    """f = c_skip x_t + c_out x_0 (LCM Eq. 9)."""
    c_skip, c_out = boundary(index)
    return c_skip * x_t + c_out * denoised(x_t, eps, at)


def pseudo_huber(out: Tensor, target: Tensor, c: float) -> Tensor:
    """Mean of sqrt(d^2 + c^2) - c (Song and Dhariwal 2023, arXiv 2310.14189, Eq. 8, by element)."""
    return ((out - target).square() + c**2).sqrt().sub(c).mean()


@dataclass(frozen=True)
class ConsistencyLoss:
    """Latent consistency distillation (LCM, Alg. 1) with a skipping step of k timesteps.

    target: the network that answers at the end of the skip; the student itself, or its average.
    huber_c: None for l2.
    """

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    target: Network
    k: int
    huber_c: float | None = None

    def indices(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps of the grid k i - 1: 19, 39, ..., 999 for k = 20."""
        grid = len(self.schedule.alpha) // self.k
        return self.k * (torch.randint(grid, (n,), generator=generator) + 1) - 1

    @torch.no_grad()
    def aim(self, number: int) -> Aim:
        """Where the target network says that the teacher's DDIM step of k leads."""
        d = self.feed.draw(number)
        index = self.indices(len(d.x_0), d.generator).to(d.x_0.device)
        before = (index - self.k).clamp_min(0)
        here, there = self.schedule.at(index), self.schedule.at(before)
        x_t = noised(d.x_0, d.eps, here)
        eps = self.teacher(x_t, index, d.texts, d.guidance)
        x_s = ddim_step(x_t, eps, here, there)
        said = self.target(x_s, before, d.texts, d.guidance)
        torch.clear_autocast_cache()
        target = consistency(x_s, said, before, there)
        return Aim(x_t, index, d.texts, d.guidance, target)

    def __call__(self, number: int) -> dict[str, Tensor]:
        """``loss``: l2 or pseudo-Huber of f(x_t) to the target."""
        a = self.aim(number)
        eps = self.student(a.x_t, a.timestep, a.texts, a.guidance)
        out = consistency(a.x_t, eps, a.timestep, self.schedule.at(a.timestep))
        if self.huber_c is None:
            return {"loss": (out - a.target).square().mean()}
        return {"loss": pseudo_huber(out, a.target, self.huber_c)}
