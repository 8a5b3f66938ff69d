"""Training DMD2 (arXiv 2405.14867) as a LoRA beside a second LoRA, which has the fake score.

The authors train whole U-Nets and add a discriminator on the features of the second (section 4.3);
both are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.common.networks import Plain
from sunbench.methods.common.settings import ADAM, Guidance, check_rank
from sunbench.methods.common.students import check_guidance_input
from sunbench.methods.common.trainees import LoraStudent, Trainee
from sunbench.methods.common.training import (
    Preview,
    Stage,
    TrainingJob,
    open_job,
    start_file,
)
from sunbench.methods.dmd2.loss import MatchingLoss
from sunbench.methods.dmd2.method import dmd2_lora
from sunbench.methods.lcm.lora import RANK, TARGETS
from sunbench.methods.lcm.method import GRID, SOLVER
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings
from sunbench.training import LoopSettings
from sunbench.training.request import TrainRequest
from sunbench.training.settings import TrainingSettings, within


@dataclass(frozen=True)
class DmdTraining(TrainingSettings):
    """Four steps and five updates of the second network for one of the student, as in the paper."""

    steps: tuple[int, ...] = (4,)  # numbers of steps, drawn in turns; [loop] has the updates
    ratio: int = 5  # updates for one of the student
    guidance_scale: float | None = None  # of the base; the card's by default
    rank: int = RANK
    alpha: float | None = None  # the rank by default
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=5000,
            batch=32,
            learning_rate=1e-5,
            warmup=0,
            decay=0.0,
            betas=ADAM,
            ema=0.99,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        within("ratio", self.ratio, 1, 1000)
        check_rank(self.rank, self.alpha)
        if not self.steps:
            raise UserError("given steps = [], expected at least one number of steps")
        for steps in self.steps:
            within("steps", steps, 1, GRID)
        if self.guidance_scale is not None:
            check_guidance_input(self.guidance_scale)

    def guidance(self, card_scale: float) -> Guidance:
        """The one scale of the base."""
        return Guidance.one(self.guidance_scale, card_scale)


class MatchingTrainee(Trainee):
    """A LoRA that samples, and one that knows its images; the file holds the first."""

    def __init__(self, unet: Any, settings: DmdTraining, start: Path | None) -> None:
        rank, alpha, seed = settings.rank, settings.alpha, settings.loop.seed
        self.student = LoraStudent(unet, TARGETS, rank, alpha, seed, start)
        self.fake = LoraStudent(unet, TARGETS, rank, alpha, seed + 1)
        self.unet = self.student.unet
        self.module: nn.Module = nn.ModuleDict(
            {"student": self.student.module, "fake": self.fake.module}
        )

    @property
    def written(self) -> nn.Module:
        """The student's LoRA alone."""
        return self.student.module

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """One file in kohya's layout."""
        self.student.write(path, about, dtype)


def sampler_timesteps(job: TrainingJob, steps: int) -> Tensor:
    """Timesteps of the method's sampler, the latest first: (steps,)."""
    scheduler = SOLVER.build(job.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    timesteps: Tensor = scheduler.timesteps.long().cpu()
    return timesteps


def dmd2_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """The one stage of the training."""
    s = job.settings
    document = job.begin({} if start is None else {"lora": file_hash(start)})
    trainee = MatchingTrainee(job.pipeline.unet, s, start)
    path = job.out / "dmd2-lora.safetensors"
    loss = MatchingLoss(
        job.feed(s.loop),
        job.schedule,
        job.teacher,
        Plain(trainee.student.unet),
        Plain(trainee.fake.unet),
        tuple(sampler_timesteps(job, n) for n in s.steps),
        s.ratio,
        s.loop.accumulate,
    )
    shown = Preview(
        dmd2_lora().with_weights(str(path), None),
        SampleSettings(s.steps[0], job.preview_guidance),
    )
    return Stage(job, trainee, loss, s.loop, job.out, path, document, shown)


def train(request: TrainRequest) -> Path:
    """``sunbench train dmd2-lora``: ``out/dmd2-lora.safetensors``, for fine-tunes too."""
    begun = start_file(request.start, "dmd2-lora")
    return dmd2_stage(open_job(DmdTraining, request), begun).run()
