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
from sunbench.methods.common.training import Bench, Shown, Stage, open_bench, start_file
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings
from sunbench.training import LoopSettings


def begun_with(start: Path | None) -> dict[str, str]:
    """For the document of a training: the weights that it begins with."""
    return {} if start is None else {"weights": file_hash(start)}


def pruned_loss(bench: Bench, student: Any, cut: str, loop: LoopSettings, stage: int) -> PrunedLoss:
    """The loss of a student; stage: its number, which has micro-batches of its own."""
    from sunbench.methods.a_sdm.semantic import semantic_loss

    s, unet = bench.settings, bench.pipeline.unet
    semantic = None
    if s.semantic:
        semantic = semantic_loss(bench.loaded, bench.pictures, bench.schedule, s)
    return PrunedLoss(
        bench.feed(loop, stage),
        bench.schedule,
        unet,
        student,
        tuple(stage_pairs(cut, stages_of(unet.config))),
        {name: getattr(s, name) for name in TERMS},
        bench.teacher.empty,
        s.empty_captions,
        semantic,
    )


def pruned_stage(
    bench: Bench,
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
    method = pruned_method(bench.method, cut).with_weights(str(target), None)
    shown = Shown(method, SampleSettings(REFERENCE_STEPS, bench.shown_guidance))
    loss = pruned_loss(bench, trainee.unet, cut, loop, stage)
    return Stage(bench, trainee, loss, loop, folder, target, document, shown, part)


def bk_stage(bench: Bench, start: Path | None = None) -> Stage:
    """A student of one cut, by the method's name: base, small or tiny."""
    s, cut = bench.settings, bench.method.removeprefix("bk-sdm-")
    trainee = PrunedStudent(bench.pipeline.unet, s.layout(cut), s.form, s.levels)
    if start is not None:
        trainee.begin_as(start)
    document, target = bench.begin(begun_with(start)), bench.out / f"{bench.method}.safetensors"
    return pruned_stage(bench, trainee, document, s.loop, bench.out, target)


def _train(
    method: str,
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None,
) -> Path:
    begun = start_file(start, method)
    bench = open_bench(method, PrunedTraining, base, out, config, data, device)
    return bk_stage(bench, begun).run()


def train_base(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train bk-sdm-base``."""
    return _train("bk-sdm-base", base, out, config, data, device, start)


def train_small(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train bk-sdm-small``."""
    return _train("bk-sdm-small", base, out, config, data, device, start)


def train_tiny(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train bk-sdm-tiny``."""
    return _train("bk-sdm-tiny", base, out, config, data, device, start)
