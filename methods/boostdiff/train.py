"""Training of BoostDiff: one guidance scale in a LoRA or in the biases."""

from __future__ import annotations

from pathlib import Path

from sunbench.methods.boostdiff.method import TARGETS, boostdiff_bitfit, boostdiff_lora
from sunbench.methods.boostdiff.settings import BoostLoraTraining, BoostTraining
from sunbench.methods.common.losses import GuidanceLoss
from sunbench.methods.common.method import MergedMethod
from sunbench.methods.common.networks import Plain
from sunbench.methods.common.trainees import BiasStudent, LoraStudent, Trainee
from sunbench.methods.common.training import Preview, Stage, TrainingJob, open_job, start_file
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings
from sunbench.training.request import TrainRequest

#: The fewer of the paper's numbers of steps: its students do not save any.
STEPS = 20


def _begun(start: Path | None) -> dict[str, str]:
    return {} if start is None else {"weights": file_hash(start)}


def _stage(
    job: TrainingJob, trainee: Trainee, document: dict[str, object], shown: MergedMethod
) -> Stage:
    s, target = job.settings, job.out / f"{job.method}.safetensors"
    method = shown.with_weights(str(target), None)
    loss = GuidanceLoss(job.feed(s.loop), job.schedule, job.teacher, Plain(trainee.unet), s.weight)
    return Stage(
        job,
        trainee,
        loss,
        s.loop,
        job.out,
        target,
        document,
        Preview(method, SampleSettings(STEPS, job.preview_guidance)),
    )


def attention_lora_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """LoRA layers on the projections of all attentions."""
    s, document = job.settings, job.begin(_begun(start))
    unet = job.pipeline.unet
    trainee = LoraStudent(unet, TARGETS, s.rank, s.alpha, s.loop.seed, start)
    return _stage(job, trainee, document, boostdiff_lora())


def bitfit_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """All biases."""
    document = job.begin(_begun(start))
    trainee = BiasStudent(job.pipeline.unet, start)
    return _stage(job, trainee, document, boostdiff_bitfit())


def train_lora(request: TrainRequest) -> Path:
    """``sunbench train boostdiff-lora``: ``out/boostdiff-lora.safetensors``."""
    begun = start_file(request.start, "boostdiff-lora")
    job = open_job(BoostLoraTraining, request)
    return attention_lora_stage(job, begun).run()


def train_bitfit(request: TrainRequest) -> Path:
    """``sunbench train boostdiff-bitfit``: ``out/boostdiff-bitfit.safetensors``."""
    begun = start_file(request.start, "boostdiff-bitfit")
    job = open_job(BoostTraining, request)
    return bitfit_stage(job, begun).run()
