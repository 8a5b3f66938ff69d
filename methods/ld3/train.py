"""Training LD3 (Tong et al. 2024, arXiv 2405.15506): timesteps by gradient through the solver.

A schedule's images come near to those of the reference's solver with many steps, from the same
noise: 50 images to learn from, 50 others to choose by whether the learned timesteps replace even
ones, as in the README of vinhsuhi/LD3 at 9e4a66f (its settings for Stable Diffusion have 25 and
25, and its commands for it aim at images of 5 or 6 even steps).

What differs from it: the distance is of latents in place of LPIPS of images, DPM-Solver++ is taught
in place of UniPC, and the optimizer is the common loop's AdamW over 8 passes in batches of 10, in
place of RMSprop over 5 to 7 in batches of 1. Its relaxed objective, which also moves the noise, and
separate timesteps for the network are left out: the benchmark compares images from equal noise, and
a scheduler has one timestep.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench.methods.common.fitted import write_step_tables
from sunbench.methods.common.fitting import FittingSettings, warm_up
from sunbench.methods.common.sheet import REFERENCE_STEPS
from sunbench.methods.common.timesteps import whole_timesteps
from sunbench.methods.common.trainees import Trainee
from sunbench.methods.common.training import Preview, Stage, TrainingJob, open_job
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.methods.ld3.method import ld3
from sunbench.methods.ld3.solver import Timesteps, half_log_snr, solve
from sunbench.sampling import SampleBatch, SampleSettings
from sunbench.training import LoopSettings
from sunbench.training.diffusion import guided_eps
from sunbench.training.request import TrainRequest
from sunbench.training.settings import within

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ld3Training(FittingSettings):
    """50 images to learn from and 50 to choose by, in batches of 10, 40 updates per schedule."""

    images: int = 50
    validation: int = 50
    steps: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 16)
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=40,
            batch=10,
            learning_rate=0.05,
            weight_decay=0.0,
            warmup=0,
            decay=0.5,
            ema=0.0,
            dtype="float32",
            checkpoint_every=40,
            log_every=10,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        within("validation", self.validation, 1, 10**6)


class Pool:
    """Batches with the latents that the reference's solver makes of them."""

    def __init__(self, job: TrainingJob, images: int, name: str) -> None:
        self.job, self.batches = job, list(warm_up(job, images, name))
        self._aims: dict[int, Tensor] = {}

    def aim(self, number: int) -> Tensor:
        """Reference latents (B, C, h, w) of a batch, sampled once."""
        if number not in self._aims:
            own = self.job.pipeline
            settings = SampleSettings(REFERENCE_STEPS, self.job.guidance.low)
            before, method = own.scheduler, dpm_solver_pp()
            try:
                latents = method.prepare(own, settings).sample(self.batches[number])
            finally:
                own.scheduler = before
            self._aims[number] = latents.float()
        return self._aims[number]

    def error(self, timesteps: Tensor, number: int) -> Tensor:
        """Mean squared distance of a batch's latents to the reference's."""
        latents = sampled(self.job, self.batches[number], timesteps)
        return (latents - self.aim(number)).square().mean()

    @torch.no_grad()
    def whole_error(self, timesteps: Tensor) -> float:
        """The same over all batches."""
        errors = [float(self.error(timesteps, k)) * len(b) for k, b in enumerate(self.batches)]
        return sum(errors) / sum(map(len, self.batches))


def sampled(job: TrainingJob, batch: SampleBatch, timesteps: Tensor) -> Tensor:
    """Latents (B, C, h, w) of a batch on continuous timesteps (N,), with gradients for these."""
    unet, scale = job.pipeline.unet, job.guidance.low
    device = unet.device
    texts = torch.cat([batch.prompt_embeds, batch.negative_embeds]).to(device)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        out = unet(
            torch.cat([x, x]),
            t.expand(2 * len(x)),
            encoder_hidden_states=texts,
            return_dict=False,
        )[0]
        positive, negative = out.float().chunk(2)
        return guided_eps(positive, negative, scale)

    table = half_log_snr(job.schedule.alpha.double() ** 2).float().to(device)
    return solve(noise, batch.latents.to(device), timesteps.to(device), table)


class ScheduleTrainee(Trainee):
    """Timesteps of one number of steps; the file holds those of all that are done."""

    def __init__(self, job: TrainingJob, steps: int, done: dict[int, Tensor]) -> None:
        self.unet = job.pipeline.unet
        self.times = Timesteps(steps, len(job.schedule.alpha) - 1).to(self.unet.device)
        self.module, self.done = self.times, done
        self.errors: dict[str, list[float]] = {}

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """All schedules in one file."""
        now = {len(self.times.shares): torch.tensor(whole_timesteps(self.times().detach()))}
        tables = {n: x.float() for n, x in sorted({**now, **self.done}.items())}
        write_step_tables(path, tables, {**about, "validation": json.dumps(self.errors)})


def _stage(
    job: TrainingJob, pool: Pool, steps: int, done: dict[int, Tensor], document: dict[str, Any]
) -> Stage:
    target = job.out / "ld3.safetensors"
    trainee = ScheduleTrainee(job, steps, done)

    def loss(number: int) -> dict[str, Tensor]:
        return {"loss": pool.error(trainee.times(), number % len(pool.batches))}

    preview = Preview(
        ld3().with_weights(str(target), None), SampleSettings(steps, job.preview_guidance)
    )
    folder = job.out / f"steps-{steps}"
    loop = job.settings.loop
    return Stage(job, trainee, loss, loop, folder, target, document, preview, str(steps))


def run(job: TrainingJob) -> Path:
    """Every schedule in turn; even timesteps stay where the learned ones are no better."""
    document = job.begin({})
    done: dict[int, Tensor] = {}
    learn = Pool(job, job.settings.images, "ld3")
    choose = Pool(job, job.settings.validation, "ld3-validation")
    errors: dict[str, list[float]] = {}
    path = job.out / "ld3.safetensors"
    for steps in job.settings.steps:
        stage = _stage(job, learn, steps, done, document)
        even = torch.tensor(whole_timesteps(stage.trainee.module().detach()))
        path = stage.run()
        learned = torch.tensor(whole_timesteps(stage.trainee.module().detach()))
        both = [choose.whole_error(t.float()) for t in (even, learned)]
        done[steps] = learned if both[1] < both[0] else even
        errors[str(steps)] = both
        log.info("ld3, %d steps: error %.4g, even timesteps %.4g", steps, both[1], both[0])
        stage.trainee.errors = errors  # type: ignore[attr-defined]
        stage.write(job.settings.loop.steps)
    return path


def train(request: TrainRequest) -> Path:
    """``sunbench train ld3``: ``out/ld3.safetensors``, for the base's fine-tunes too."""
    request.refuse_start("starts at even timesteps")
    return run(open_job(Ld3Training, request))
