"""Training of LCM (arXiv 2310.04378) and LCM-LoRA (arXiv 2311.05556)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sunbench.methods.common.networks import Conditioned, Network, Plain
from sunbench.methods.common.sheet import STEPS
from sunbench.methods.common.students import student_hash
from sunbench.methods.common.trainees import (
    LoraStudent,
    WholeStudent,
    average_of,
    student_file,
)
from sunbench.methods.common.training import Preview, Stage, TrainingJob, open_job, start_file
from sunbench.methods.lcm.lora import TARGETS, lcm_lora
from sunbench.methods.lcm.loss import ConsistencyLoss
from sunbench.methods.lcm.method import lcm
from sunbench.methods.lcm.settings import LcmLoraTraining, LcmTraining
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings
from sunbench.training.request import TrainRequest


def _loss(job: TrainingJob, student: Network, target: Network) -> ConsistencyLoss:
    s = job.settings
    return ConsistencyLoss(
        job.feed(s.loop),
        job.schedule,
        job.teacher,
        student,
        target,
        s.k,
        s.huber_c if s.loss == "huber" else None,
    )


def lcm_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """A student with its w-input, and the average of its weights at the target."""
    document = job.begin({} if start is None else {"student": student_hash(start)})
    trainee = WholeStudent(job.pipeline.unet, start, levels=job.settings.levels)
    student = Conditioned(trainee.unet, job.pipeline)
    target, on_begin = student, None
    path = student_file(job.out, "lcm", job.settings.form)
    if job.settings.target == "ema":
        average: Any = average_of(trainee)
        target = Conditioned(average, job.pipeline)

        def on_begin(ema: dict[str, Tensor]) -> None:
            average.load_state_dict(ema, assign=True)

    return Stage(
        job,
        trainee,
        _loss(job, student, target),
        job.settings.loop,
        job.out,
        path,
        document,
        Preview(lcm().with_weights(str(path), None), SampleSettings(STEPS, job.preview_guidance)),
        on_begin=on_begin,
    )


def lcm_lora_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """LoRA layers; the student itself answers at the target."""
    s, unet = job.settings, job.pipeline.unet
    document = job.begin({} if start is None else {"lora": file_hash(start)})
    trainee = LoraStudent(unet, TARGETS, s.rank, s.alpha, s.loop.seed, start)
    student, path = Plain(trainee.unet), job.out / "lcm-lora.safetensors"
    return Stage(
        job,
        trainee,
        _loss(job, student, student),
        s.loop,
        job.out,
        path,
        document,
        Preview(
            lcm_lora().with_weights(str(path), None), SampleSettings(STEPS, job.preview_guidance)
        ),
    )


def train_lcm(request: TrainRequest) -> Path:
    """``sunbench train lcm``: ``out/lcm`` is a diffusers U-Net with guidance as an input.

    With ``form = "difference"`` it is ``out/lcm.safetensors``.
    """
    begun = start_file(request.start, "lcm", folders=True)
    return lcm_stage(open_job(LcmTraining, request), begun).run()


def train_lcm_lora(request: TrainRequest) -> Path:
    """``sunbench train lcm-lora``: ``out/lcm-lora.safetensors``, for the base's fine-tunes too."""
    begun = start_file(request.start, "lcm-lora")
    job = open_job(LcmLoraTraining, request)
    return lcm_lora_stage(job, begun).run()
