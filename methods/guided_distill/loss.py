"""Stage 2 of Guided-Distill: half of the teacher's steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sunbench.methods.common.losses import Aim, Feed, noise_loss, weight
from sunbench.methods.common.networks import Network
from sunbench.training.diffusion import Schedule, eps_step, noised, sub_steps, trajectory


def halved(
    x_t: Tensor, t: Tensor, s: Tensor, schedule: Schedule, predict: Any, steps: int = 2
) -> Tensor:
    """The noise whose one DDIM step from t to s goes where the teacher's ``steps`` go.

    Progressive distillation (Salimans and Ho 2022, Alg. 2, there as x_0); t, s: times (B,).
    """
    x_s = trajectory(x_t, sub_steps(t, s, steps), schedule, predict)
    return eps_step(x_t, x_s, schedule.level(t), schedule.level(s))


@dataclass(frozen=True)
class HalvingLoss:
    """Stage 2 of Guided-Distill: one step of a student of ``steps`` for two of its teacher's."""

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    weight: str
    steps: int

    def times(self, n: int, generator: torch.Generator) -> Tensor:
        """n starts of the student's steps: 1 / N, 2 / N, ..., 1."""
        return (torch.randint(self.steps, (n,), generator=generator) + 1) / self.steps

    @torch.no_grad()
    def aim(self, k: int) -> Aim:
        """The noise that takes the teacher's two steps in one."""
        d = self.feed.draw(k)
        t = self.times(len(d.x_0), d.generator).to(d.x_0.device)
        x_t = noised(d.x_0, d.eps, self.schedule.level(t))

        def teach(x: Tensor, index: Tensor) -> Tensor:
            return self.teacher(x, index, d.texts, d.guidance)

        s = (t - 1 / self.steps).clamp_min(0)
        target = halved(x_t, t, s, self.schedule, teach)
        torch.clear_autocast_cache()
        return Aim(x_t, self.schedule.index(t), d.texts, d.guidance, target)

    def __call__(self, k: int) -> dict[str, Tensor]:
        """``loss`` and ``mse``."""
        a = self.aim(k)
        out = self.student(a.x_t, a.timestep, a.texts, a.guidance)
        return noise_loss(out, a.target, weight(self.weight, self.schedule.at(a.timestep)))
