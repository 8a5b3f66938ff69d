"""Training of A-SDM's assembled U-Nets (arXiv 2312.15516, section 2.2), in two stages.

The first trains Base as BK-SDM does; the second assembles Base's outer stages with the model's own
inner ones and trains again, M1 to M3 the outer stages alone. The folder of a training:

    a-sdm-m2.safetensors             the assembled student
    incubation/bk-sdm-base.safetensors   Base
    incubation/, assembly/           checkpoints, logs and sheets; each stage resumes by itself

``--from`` names a Base that is trained already; the first stage is left out then.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from sunbench.methods.a_sdm.settings import AssembledTraining
from sunbench.methods.bk_sdm.student import PrunedStudent, load_pruned
from sunbench.methods.bk_sdm.surgery import CUTS, new_tensors, stages_of
from sunbench.methods.bk_sdm.train import begun_with, pruned_stage
from sunbench.methods.common.training import Stage, TrainingJob, open_job, start_file
from sunbench.training.request import TrainRequest
from sunbench.training.settings import TrainingSettings

#: Parts of a U-Net that belong to no stage: the setting that says where they come from.
_PARTS = {
    "mid_from": r"mid_block\.",
    "edges_from": r"conv_in\.|conv_out\.|conv_norm_out\.",
    "time_from": r"time_embedding\.",
}


def cut_name(method: str) -> str:
    """The cut of an assembled U-Net: M4 to M6 are M1 to M3 with everything trained."""
    number = int(method.removeprefix("a-sdm-m"))
    return f"m{(number - 1) % 3 + 1}"


def is_frozen(method: str) -> bool:
    """Whether what comes from the model's own U-Net is frozen."""
    return int(method.removeprefix("a-sdm-m")) <= 3


def taken_from_base(settings: Any, cut: str, stages: int, names: list[str]) -> list[str]:
    """Of an assembled U-Net's tensors, those that come from the trained Base."""
    new = set(new_tensors(CUTS[cut], stages, names))
    chosen = [p for key, p in _PARTS.items() if getattr(settings, key) == "base"]
    pattern = re.compile("|".join(chosen) or r"(?!)")
    return [name for name in names if name in new or pattern.match(name)]


def assembled(job: TrainingJob, base_file: Path) -> PrunedStudent:
    """Base's outer stages around the model's own inner ones; M1 to M3 with these frozen."""
    s, unet = job.settings, job.pipeline.unet
    cut, stages = cut_name(job.method), stages_of(unet.config)
    trainee = PrunedStudent(unet, s.layout(cut), s.form, s.levels)
    base: nn.Module = load_pruned(base_file, unet, "base")
    own = list(trainee.unet.state_dict())
    wanted = set(taken_from_base(s, cut, stages, list(base.state_dict())))
    trainee.take({k: v for k, v in base.state_dict().items() if k in wanted})
    if is_frozen(job.method):
        free = set(taken_from_base(s, cut, stages, own))
        for name, parameter in trainee.unet.named_parameters():
            parameter.requires_grad_(name in free)
    return trainee


def incubation(job: TrainingJob, document: dict[str, Any]) -> Stage:
    """Stage 1: Base, with the experts that are asked for."""
    s, folder = job.settings, job.out / "incubation"
    trainee = PrunedStudent(job.pipeline.unet, s.layout("base"), s.form, s.levels)
    target = folder / "bk-sdm-base.safetensors"
    loop = s.incubation_loop
    return pruned_stage(job, trainee, document, loop, folder, target, "incubation")


def assembly(job: TrainingJob, document: dict[str, Any], base_file: Path) -> Stage:
    """Stage 2: the assembled network, from a trained Base."""
    trainee, folder = assembled(job, base_file), job.out / "assembly"
    target, loop = job.out / f"{job.method}.safetensors", job.settings.loop
    return pruned_stage(job, trainee, document, loop, folder, target, "assembly", 1)


def run(job: TrainingJob, start: Path | None = None) -> Path:
    """Both stages, or with a Base that is trained already the second alone."""
    document = job.begin(begun_with(start))
    base_file = incubation(job, document).run() if start is None else start
    return assembly(job, document, base_file).run()


def train(request: TrainRequest) -> Path:
    """``sunbench train a-sdm-m1`` and its siblings."""
    begun = start_file(request.start, "bk-sdm-base")
    kind: type[TrainingSettings] = AssembledTraining
    return run(open_job(kind, request), begun)
