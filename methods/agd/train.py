"""Training AGD (arXiv 2503.07274, section 4): the guided noise on guided trajectories.

The inputs are those of sampling: points of the teacher's own trajectories under guidance, not
noised images. A trajectory of n points serves n micro-batches; in each, images are at other points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.agd.adapter import AgdAdapter, AgdUNet, write_agd
from sunbench.methods.agd.method import agd
from sunbench.methods.common.losses import Drawn, Feed
from sunbench.methods.common.networks import Network
from sunbench.methods.common.settings import Guidance, check_range
from sunbench.methods.common.trainees import Trainee
from sunbench.methods.common.training import Preview, Stage, TrainingJob, open_job
from sunbench.sampling import SampleSettings
from sunbench.training import LoopSettings
from sunbench.training.diffusion import Schedule, ddim_step
from sunbench.training.request import TrainRequest
from sunbench.training.settings import TrainingSettings, within

STEPS = 20


@dataclass(frozen=True)
class AgdTraining(TrainingSettings):
    """Trajectories of 50 points, guidance drawn for each image, adapters of width 320."""

    points: int = 50
    guidance_min: float = 2.0
    guidance_max: float = 12.0
    width: int = 320
    loop: LoopSettings = field(
        default=LoopSettings(steps=5000, batch=32, learning_rate=1e-4, warmup=0, decay=0.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        within("points", self.points, 1, 1000)
        within("width", self.width, 2, 4096)
        if self.width % 2:
            raise UserError(f"given width = {self.width}, expected an even number")
        check_range(self.guidance_min, self.guidance_max)

    def guidance(self, card_scale: float) -> Guidance:
        """A range, whatever the card says."""
        return Guidance(self.guidance_min, self.guidance_max)


@dataclass
class TrajectoryFeed:
    """Points of guided trajectories by the number of a micro-batch.

    The last trajectory is kept, so that numbers in order compute each one once.
    """

    feed: Feed
    schedule: Schedule
    teacher: Network
    points: int
    _held: tuple[int, Drawn, Tensor, Tensor] | None = None

    @torch.no_grad()
    def _trajectory(self, number: int) -> tuple[int, Drawn, Tensor, Tensor]:
        """Its texts and scales, inputs and guided noise: both (points, B, C, h, w)."""
        if self._held is None or self._held[0] != number:
            drawn, device = self.feed.draw(number), self.schedule.alpha.device
            index = self.index().to(device)
            ends = torch.cat([index[1:], index.new_zeros(1)])
            x, inputs, noise = drawn.eps, [], []
            for now, then in zip(index, ends, strict=True):
                at, to = (self.schedule.at(t.expand(len(x))) for t in (now, then))
                eps = self.teacher(x, now.expand(len(x)), drawn.texts, drawn.guidance)
                inputs.append(x)
                noise.append(eps)
                x = ddim_step(x, eps, at, to)
            self._held = (number, drawn, torch.stack(inputs), torch.stack(noise))
        return self._held

    def index(self) -> Tensor:
        """Timesteps of the points, trailing: (points,)."""
        return self.schedule.index(1 - torch.arange(self.points) / self.points)

    def draw(self, number: int) -> tuple[Drawn, Tensor, Tensor, Tensor]:
        """Texts and scales, inputs (B, C, h, w), timesteps (B,) and guided noise."""
        _, drawn, inputs, noise = self._trajectory(number // self.points)
        rows = torch.arange(inputs.shape[1])
        stride = max(1, self.points // len(rows))
        point = (number + stride * rows) % self.points
        return drawn, inputs[point, rows], self.index()[point], noise[point, rows]


@dataclass(frozen=True)
class AgdLoss:
    """Squared error of the guided noise at points of guided trajectories."""

    feed: TrajectoryFeed
    unet: AgdUNet

    def __call__(self, number: int) -> dict[str, Tensor]:
        """``loss``."""
        drawn, x, t, target = self.feed.draw(number)
        torch.clear_autocast_cache()
        out = self.unet(x, t.to(x.device), drawn.texts, guidance=drawn.guidance)[0]
        return {"loss": (out.float() - target).square().mean()}


class AgdTrainee(Trainee):
    """Adapters beside a copy of the base that shares its weights."""

    def __init__(self, unet: Any, adapter: AgdAdapter, guidance_scale: float) -> None:
        self.adapter = adapter
        self.module = adapter
        self.student = AgdUNet(unet, adapter, guidance_scale)
        self.unet = self.student.network

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """One file, by the names of the attentions."""
        write_agd(path, self.adapter, about, dtype)


def agd_stage(job: TrainingJob) -> Stage:
    """The one stage of the training."""
    s, document = job.settings, job.begin({})
    adapter = AgdAdapter(job.pipeline.unet, s.width, s.loop.seed)
    trainee = AgdTrainee(job.pipeline.unet, adapter, job.preview_guidance)
    target = job.out / "agd.safetensors"
    feed = TrajectoryFeed(job.feed(s.loop), job.schedule, job.teacher, s.points)
    shown = Preview(
        agd().with_weights(str(target), None), SampleSettings(STEPS, job.preview_guidance)
    )
    loss = AgdLoss(feed, trainee.student)
    return Stage(job, trainee, loss, s.loop, job.out, target, document, shown)


def train(request: TrainRequest) -> Path:
    """``sunbench train agd``: ``out/agd.safetensors``, for the base's fine-tunes too."""
    request.refuse_start("starts at the base itself")
    return agd_stage(open_job(AgdTraining, request)).run()
