"""Training of BoostDiff: one guidance scale in a LoRA or in the biases."""

from __future__ import annotations

from pathlib import Path

from sunbench.methods.boostdiff.method import TARGETS, boostdiff_bitfit, boostdiff_lora
from sunbench.methods.boostdiff.settings import BoostLoraTraining, BoostTraining
from sunbench.methods.common.losses import GuidanceLoss
from sunbench.methods.common.method import MergedMethod
from sunbench.methods.common.networks import Plain
from sunbench.methods.common.trainees import BiasStudent, LoraStudent, Trainee
from sunbench.methods.common.training import Bench, Shown, Stage, open_bench, start_file
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings

#: The fewer of the paper's numbers of steps: its students do not save any.
STEPS = 20


def _begun(start: Path | None) -> dict[str, str]:
    return {} if start is None else {"weights": file_hash(start)}


def _stage(
    bench: Bench, trainee: Trainee, document: dict[str, object], shown: MergedMethod
) -> Stage:
    s, target = bench.settings, bench.out / f"{bench.method}.safetensors"
    method = shown.with_weights(str(target), None)
    loss = GuidanceLoss(
        bench.feed(s.loop), bench.schedule, bench.teacher, Plain(trainee.unet), s.weight
    )
    return Stage(
        bench,
        trainee,
        loss,
        s.loop,
        bench.out,
        target,
        document,
        Shown(method, SampleSettings(STEPS, bench.shown_guidance)),
    )


def lora_stage(bench: Bench, start: Path | None = None) -> Stage:
    """LoRA layers on the projections of all attentions."""
    s, document = bench.settings, bench.begin(_begun(start))
    unet = bench.pipeline.unet
    trainee = LoraStudent(unet, TARGETS, s.rank, s.alpha, s.loop.seed, start)
    return _stage(bench, trainee, document, boostdiff_lora())


def bitfit_stage(bench: Bench, start: Path | None = None) -> Stage:
    """All biases."""
    document = bench.begin(_begun(start))
    trainee = BiasStudent(bench.pipeline.unet, start)
    return _stage(bench, trainee, document, boostdiff_bitfit())


def train_lora(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train boostdiff-lora``: ``out/boostdiff-lora.safetensors``."""
    begun = start_file(start, "boostdiff-lora")
    bench = open_bench("boostdiff-lora", BoostLoraTraining, base, out, config, data, device)
    return lora_stage(bench, begun).run()


def train_bitfit(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train boostdiff-bitfit``: ``out/boostdiff-bitfit.safetensors``."""
    begun = start_file(start, "boostdiff-bitfit")
    bench = open_bench("boostdiff-bitfit", BoostTraining, base, out, config, data, device)
    return bitfit_stage(bench, begun).run()
