"""A tiny base, three images, and every distillation at a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from trainings import LOOP

from sunbench.methods.agd.train import AgdTraining, agd_stage
from sunbench.methods.boostdiff.settings import BoostLoraTraining, BoostTraining
from sunbench.methods.boostdiff.train import attention_lora_stage, bitfit_stage
from sunbench.methods.common.training import TrainingJob
from sunbench.methods.dmd2.train import DmdTraining, dmd2_stage
from sunbench.methods.gits.fit import GitsFit
from sunbench.methods.guided_distill.settings import GuidedTraining
from sunbench.methods.guided_distill.train import Earlier
from sunbench.methods.guided_distill.train import run as run_guided
from sunbench.methods.lcm.settings import LcmLoraTraining, LcmTraining
from sunbench.methods.lcm.train import lcm_lora_stage, lcm_stage
from sunbench.methods.ld3.train import Ld3Training
from sunbench.methods.linear_ag.fit import LinearFit
from sunbench.methods.pcm.train import PcmTraining, pcm_stage
from sunbench.methods.tcd.train import TcdTraining, tcd_stage
from sunbench.models import LoadedModel, ModelCard
from sunbench.training.data import Listed
from sunbench.training.settings import TrainingSettings

SETTINGS: dict[str, TrainingSettings] = {
    "lcm": LcmTraining(sheet=2, loop=LOOP),
    "lcm-lora": LcmLoraTraining(sheet=2, rank=2, guidance_scale=5.0, loop=LOOP),
    "guided-distill": GuidedTraining(
        sheet=2, rounds=(2, 1, 3), round_steps=4, last_steps=4, loop=LOOP
    ),
    "boostdiff-lora": BoostLoraTraining(sheet=2, rank=2, guidance_scale=5.0, loop=LOOP),
    "boostdiff-bitfit": BoostTraining(sheet=2, guidance_scale=5.0, loop=LOOP),
    "tcd-lora": TcdTraining(sheet=2, rank=2, guidance_scale=5.0, loop=LOOP),
    "pcm-lora": PcmTraining(sheet=2, rank=2, guidance_scale=5.0, loop=LOOP),
    "dmd2-lora": DmdTraining(sheet=2, steps=(2,), ratio=2, rank=2, guidance_scale=5.0, loop=LOOP),
    "agd": AgdTraining(sheet=2, points=1, width=8, loop=LOOP),
    "gits": GitsFit(loop=LOOP),
    "linear-ag": LinearFit(loop=LOOP),
    "ld3": Ld3Training(loop=replace(LOOP, learning_rate=0.1)),
}
COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def row(i: int) -> tuple[Any, str]:
    name = list(COLORS)[i]
    return Image.new("RGB", (16, 16), COLORS[name]), f"a {name} cat"


def trained(job: TrainingJob) -> Path:
    """Run a job's method."""
    if job.method == "guided-distill":
        return run_guided(job, Earlier(None))
    stages = {
        "lcm": lcm_stage,
        "lcm-lora": lcm_lora_stage,
        "boostdiff-lora": attention_lora_stage,
        "boostdiff-bitfit": bitfit_stage,
        "tcd-lora": tcd_stage,
        "pcm-lora": pcm_stage,
        "dmd2-lora": dmd2_stage,
        "agd": agd_stage,
    }
    return stages[job.method](job).run()


@pytest.fixture
def pipe(tiny: ModuleType, tmp_path: Path) -> Any:
    """One that a test may change."""
    return tiny.pipeline(tmp_path / "words")


@pytest.fixture
def loaded(pipe: Any, tmp_path: Path) -> LoadedModel:
    card = ModelCard(
        "tiny", "folder", str(tmp_path), architecture="zoo", resolution=16, guidance_scale=5.0
    )
    return LoadedModel(pipe, card, {"unet": "0" * 64}, "own")


@pytest.fixture
def make(loaded: LoadedModel, tmp_path: Path) -> Callable[..., TrainingJob]:
    """A job of a method; changes to its settings, ``loop`` ones in a dictionary."""

    def job(method: str, out: str = "out", loop: dict[str, Any] | None = None, **changes: Any):
        settings = SETTINGS[method]
        settings = replace(settings, loop=replace(settings.loop, **(loop or {})), **changes)
        listed = Listed("colors", len(COLORS), 16, row)
        return TrainingJob(method, loaded, listed, settings, tmp_path / out)

    return job


@pytest.fixture
def train() -> Callable[[TrainingJob], Path]:
    return trained
