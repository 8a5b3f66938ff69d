"""Training of BK-SDM's students: one stage, ``OUT/bk-sdm-base.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunbench.methods.bk_sdm.loss import PrunedLoss, stage_pairs
from sunbench.methods.bk_sdm.method import pruned_method
from sunbench.methods.bk_sdm.settings import TERMS, PrunedTraining
from sunbench.methods.bk_sdm.student import PrunedStudent
from sunbench.methods.bk_sdm.surgery import stages_of
from sunbench.methods.common.sheet import REFERENCE_STEPS
from sunbench.methods.common.training import Preview, Stage, TrainingJob, open_job, start_file
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings
from sunbench.training import LoopSettings
from sunbench.training.request import TrainRequest


def begun_with(start: Path | None) -> dict[str, str]:
    """For the document of a training: the weights that it begins with."""
    return {} if start is None else {"weights": file_hash(start)}


def pruned_loss(
    job: TrainingJob, student: Any, cut: str, loop: LoopSettings, stage: int
) -> PrunedLoss:
    """The loss of a student; stage: its number, which has micro-batches of its own."""
    from sunbench.methods.a_sdm.semantic import semantic_loss

    s, unet = job.settings, job.pipeline.unet
    semantic = None
    if s.semantic:
        semantic = semantic_loss(job.loaded, job.data, job.schedule, s)
    return PrunedLoss(
        job.feed(loop, stage),
        job.schedule,
        unet,
        student,
        tuple(stage_pairs(cut, stages_of(unet.config))),
        {name: getattr(s, name) for name in TERMS},
        job.teacher.empty,
        s.empty_captions,
        semantic,
    )


def pruned_stage(
    job: TrainingJob,
    trainee: PrunedStudent,
    document: dict[str, Any],
    loop: LoopSettings,
    folder: Path,
    target: Path,
    part: str | None = None,
    stage: int = 0,
) -> Stage:
    """One run of the loop on a student, shown at the reference's number of steps."""
    cut = trainee.layout.cut
    method = pruned_method(job.method, cut).with_weights(str(target), None)
    shown = Preview(method, SampleSettings(REFERENCE_STEPS, job.preview_guidance))
    loss = pruned_loss(job, trainee.unet, cut, loop, stage)
    return Stage(job, trainee, loss, loop, folder, target, document, shown, part)


def bk_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """A student of one cut, by the method's name: base, small or tiny."""
    s, cut = job.settings, job.method.removeprefix("bk-sdm-")
    trainee = PrunedStudent(job.pipeline.unet, s.layout(cut), s.form, s.levels)
    if start is not None:
        trainee.begin_as(start)
    document, target = job.begin(begun_with(start)), job.out / f"{job.method}.safetensors"
    return pruned_stage(job, trainee, document, s.loop, job.out, target)


def train(request: TrainRequest) -> Path:
    """``sunbench train bk-sdm-base``, ``bk-sdm-small`` and ``bk-sdm-tiny``."""
    begun = start_file(request.start, request.method)
    return bk_stage(open_job(PrunedTraining, request), begun).run()
