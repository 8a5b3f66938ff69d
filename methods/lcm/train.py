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
from sunbench.methods.common.training import Bench, Shown, Stage, open_bench, start_file
from sunbench.methods.lcm.lora import TARGETS, lcm_lora
from sunbench.methods.lcm.loss import ConsistencyLoss
from sunbench.methods.lcm.method import lcm
from sunbench.methods.lcm.settings import LcmLoraTraining, LcmTraining
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings


def _loss(bench: Bench, student: Network, target: Network) -> ConsistencyLoss:
    s = bench.settings
    return ConsistencyLoss(
        bench.feed(s.loop),
        bench.schedule,
        bench.teacher,
        student,
        target,
        s.k,
        s.huber_c if s.loss == "huber" else None,
    )


def lcm_stage(bench: Bench, start: Path | None = None) -> Stage:
    """A student with its w-input, and the average of its weights at the target."""
    document = bench.begin({} if start is None else {"student": student_hash(start)})
    trainee = WholeStudent(bench.pipeline.unet, start, levels=bench.settings.levels)
    student = Conditioned(trainee.unet, bench.pipeline)
    target, on_begin = student, None
    path = student_file(bench.out, "lcm", bench.settings.form)
    if bench.settings.target == "ema":
        average: Any = average_of(trainee)
        target = Conditioned(average, bench.pipeline)

        def on_begin(ema: dict[str, Tensor]) -> None:
            average.load_state_dict(ema, assign=True)

    return Stage(
        bench,
        trainee,
        _loss(bench, student, target),
        bench.settings.loop,
        bench.out,
        path,
        document,
        Shown(lcm().with_weights(str(path), None), SampleSettings(STEPS, bench.shown_guidance)),
        on_begin=on_begin,
    )


def lcm_lora_stage(bench: Bench, start: Path | None = None) -> Stage:
    """LoRA layers; the student itself answers at the target."""
    s, unet = bench.settings, bench.pipeline.unet
    document = bench.begin({} if start is None else {"lora": file_hash(start)})
    trainee = LoraStudent(unet, TARGETS, s.rank, s.alpha, s.loop.seed, start)
    student, path = Plain(trainee.unet), bench.out / "lcm-lora.safetensors"
    return Stage(
        bench,
        trainee,
        _loss(bench, student, student),
        s.loop,
        bench.out,
        path,
        document,
        Shown(
            lcm_lora().with_weights(str(path), None), SampleSettings(STEPS, bench.shown_guidance)
        ),
    )


def train_lcm(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train lcm``: ``out/lcm`` is a diffusers U-Net with guidance as an input.

    With ``form = "difference"`` it is ``out/lcm.safetensors``.
    """
    begun = start_file(start, "lcm", folders=True)
    return lcm_stage(open_bench("lcm", LcmTraining, base, out, config, data, device), begun).run()


def train_lcm_lora(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train lcm-lora``: ``out/lcm-lora.safetensors``, for the base's fine-tunes too."""
    begun = start_file(start, "lcm-lora")
    bench = open_bench("lcm-lora", LcmLoraTraining, base, out, config, data, device)
    return lcm_lora_stage(bench, begun).run()
