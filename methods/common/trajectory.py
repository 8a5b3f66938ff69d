"""Consistency to a point further down the trajectory, which TCD and PCM learn as a LoRA.

From x_t the teacher's guided DDIM step leads to x_u, k timesteps on. A DDIM step of the student
from x_t to s must end where its own from x_u to s ends. TCD draws s anywhere below u; PCM takes the
lower end of the phase that t lies in, below which u never is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sunbench.methods.common.losses import Feed
from sunbench.methods.common.networks import Network, Plain
from sunbench.methods.common.trainees import LoraStudent
from sunbench.methods.common.training import Preview, Stage, TrainingJob
from sunbench.methods.lcm.lora import TARGETS
from sunbench.methods.lcm.loss import pseudo_huber
from sunbench.models.hashes import file_hash
from sunbench.registry import method
from sunbench.sampling import SampleSettings
from sunbench.training.diffusion import Schedule, ddim_step, noised

#: Steps of a sheet.
SHEET_STEPS = 4
#: (t (B,), generator) -> s (B,): the timestep at which two answers about x_t must agree.
Ends = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrajectoryLoss:
    """The distance of the student's step from x_t to s to that from x_u to s.

    k: timesteps between t and u; lower: the lowest that u may be for a t, 0 without it; huber_c:
    None for l2. The student itself, without gradient, answers at u.
    """

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    k: int
    ends: Ends
    lower: Callable[[Tensor], Tensor] | None = None
    huber_c: float | None = None

    def times(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """t on the grid k i - 1, u and s of n micro-batch rows: t > u >= s."""
        grid = len(self.schedule.alpha) // self.k
        t = self.k * (torch.randint(grid, (n,), generator=generator) + 1) - 1
        u = (t - self.k).clamp_min(0)
        if self.lower is not None:
            u = torch.maximum(u, self.lower(t))
        return t, u, self.ends(u if self.lower is None else t, generator)

    def __call__(self, number: int) -> dict[str, Tensor]:
        """``loss``: l2 or pseudo-Huber between both ends."""
        d = self.feed.draw(number)
        device = d.x_0.device
        t, u, s = (x.to(device) for x in self.times(len(d.x_0), d.generator))
        here, then, end = (self.schedule.at(x) for x in (t, u, s))
        x_t = noised(d.x_0, d.eps, here)
        with torch.no_grad():
            x_u = ddim_step(x_t, self.teacher(x_t, t, d.texts, d.guidance), here, then)
            target = ddim_step(x_u, self.student(x_u, u, d.texts, d.guidance), then, end)
        torch.clear_autocast_cache()
        out = ddim_step(x_t, self.student(x_t, t, d.texts, d.guidance), here, end)
        if self.huber_c is None:
            return {"loss": (out - target).square().mean()}
        return {"loss": pseudo_huber(out, target, self.huber_c)}


def lora_stage(
    job: TrainingJob,
    ends: Ends,
    lower: Callable[[Tensor], Tensor] | None = None,
    start: Path | None = None,
) -> Stage:
    """LoRA layers on the published targets, trained for consistency at ``ends``."""
    s, unet = job.settings, job.pipeline.unet
    document = job.begin({} if start is None else {"lora": file_hash(start)})
    trainee = LoraStudent(unet, TARGETS, s.rank, s.alpha, s.loop.seed, start)
    student, path = Plain(trainee.unet), job.out / f"{job.method}.safetensors"
    loss = TrajectoryLoss(
        job.feed(s.loop),
        job.schedule,
        job.teacher,
        student,
        s.k,
        ends,
        lower,
        s.huber_c if s.loss == "huber" else None,
    )
    shown = method(job.method, weights={job.method: str(path)})
    settings = SampleSettings(SHEET_STEPS, job.preview_guidance)
    return Stage(job, trainee, loss, s.loop, job.out, path, document, Preview(shown, settings))
