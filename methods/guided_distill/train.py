"""Training of Guided-Distill (Meng et al. 2023, arXiv 2210.03142).

Stage 1 puts guidance into a student for any number of steps; stage 2 halves the steps, round by
round, each student beginning as its teacher. The folder of a training:

    guided-distill/4/   a student for 4 steps, what the sampler reads
    stage1/student/     the student for any number of steps
    stage1/, steps-4/   checkpoints, logs and sheets

With form = "difference" students are files, 4.safetensors and student.safetensors. A fine-tune's
training that begins with them begins with the base's differences on the fine-tune.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.methods.common.losses import GuidanceLoss
from sunbench.methods.common.networks import Conditioned
from sunbench.methods.common.settings import FORMS
from sunbench.methods.common.sheet import REFERENCE_STEPS
from sunbench.methods.common.students import StudentMethod, student_hash
from sunbench.methods.common.trainees import FILE, WholeStudent, student_file
from sunbench.methods.common.training import Preview, Stage, TrainingJob, open_job
from sunbench.methods.ddim import ddim
from sunbench.methods.guided_distill.loss import HalvingLoss
from sunbench.methods.guided_distill.method import WEIGHTS
from sunbench.methods.guided_distill.settings import GuidedTraining
from sunbench.sampling import SampleSettings
from sunbench.training.request import TrainRequest

log = logging.getLogger(__name__)

NAME = "guided-distill"


@dataclass(frozen=True)
class Earlier:
    """Students of another training, usually the base's: each stage begins at its own one."""

    folder: Path | None

    @classmethod
    def named(cls, spec: str | None) -> Earlier:
        """By --from: the folder of a training, or of its students."""
        earlier = cls(None if spec is None else Path(spec))
        if spec is not None and not earlier.exists():
            raise UserError(
                f"given --from {spec!r}, expected the folder of a {NAME} training, with"
                f" stage1/student or {NAME}/4"
            )
        return earlier

    def stage1(self) -> Path | None:
        """The student for any number of steps."""
        return self._there("stage1/student")

    def round(self, steps: int) -> Path | None:
        """The student for a number of steps."""
        return self._there(f"{NAME}/{steps}") or self._there(str(steps))

    def _there(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        whole, difference = (student_file(self.folder, name, form) for form in FORMS)
        if (whole / FILE).is_file():
            return whole
        return difference if difference.is_file() else None

    def exists(self) -> bool:
        """Whether there is any student."""
        return self.stage1() is not None or any(self.round(n) for n in range(1, 501))

    def hashes(self, rounds: tuple[int, ...]) -> dict[str, str]:
        """Of the students that a training with these rounds begins with."""
        paths = {"stage1": self.stage1(), **{str(n): self.round(n) for n in rounds}}
        return {name: student_hash(path) for name, path in paths.items() if path is not None}


def _preview(job: TrainingJob, steps: int, target: Path) -> Preview:
    """A student at a number of steps, which stage 1's is not tied to."""
    student = StudentMethod(NAME, ddim().solver, WEIGHTS).with_weights(str(target), None)
    return Preview(student, SampleSettings(steps, job.preview_guidance))


def stage1(job: TrainingJob, document: Mapping[str, object], earlier: Earlier) -> Stage:
    """Guidance into the student's w-input."""
    s, out = job.settings, job.out
    trainee = WholeStudent(job.pipeline.unet, earlier.stage1(), levels=s.levels)
    student = Conditioned(trainee.unet, job.pipeline)
    loss = GuidanceLoss(job.feed(s.loop), job.schedule, job.teacher, student, s.weight)
    folder, target = out / "stage1", student_file(out / "stage1", "student", s.form)
    preview = _preview(job, REFERENCE_STEPS, target)
    return Stage(job, trainee, loss, s.loop, folder, target, document, preview, "stage1")


def stage2(
    job: TrainingJob, document: Mapping[str, object], earlier: Earlier, teacher: Any, steps: int
) -> Stage:
    """A round: a student of ``steps`` for a teacher (a U-Net) that takes twice as many."""
    s, out = job.settings, job.out
    start, loop = earlier.round(steps), s.round_loop(steps)
    trainee = WholeStudent(teacher, start, job.pipeline.unet, s.levels)
    loss = HalvingLoss(
        job.feed(loop, steps),
        job.schedule,
        Conditioned(teacher, job.pipeline),
        Conditioned(trainee.unet, job.pipeline),
        s.weight,
        steps,
    )
    folder, target = out / f"steps-{steps}", student_file(out / NAME, str(steps), s.form)
    preview = _preview(job, steps, target)
    return Stage(job, trainee, loss, loop, folder, target, document, preview, str(steps))


def run(job: TrainingJob, earlier: Earlier) -> Path:
    """Stage 1, then every round; returns the folder of the students."""
    s = job.settings
    document = job.begin(earlier.hashes(s.rounds))
    first = stage1(job, document, earlier)
    folder = first.run()
    any_steps = _frozen(first)
    last = any_steps
    for steps, before in s.teachers().items():
        teacher = any_steps if before is None else last
        stage = stage2(job, document, earlier, teacher, steps)
        folder = stage.run().parent
        last = _frozen(stage)
    return folder


def _frozen(stage: Stage) -> Any:
    """What a stage has made, to teach the next."""
    return stage.trainee.unet.requires_grad_(False)


def train(request: TrainRequest) -> Path:
    """``sunbench train guided-distill``: ``out/guided-distill``, a student per number of steps."""
    earlier = Earlier.named(request.start)
    return run(open_job(GuidedTraining, request), earlier)
