"""Trainings of pruned and assembled networks: files, resuming, what is frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import trainings
from PIL import Image
from safetensors.torch import load_file

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.a_sdm import train as a_sdm
from sunbench.methods.a_sdm.settings import AssembledTraining
from sunbench.methods.bk_sdm.settings import PrunedTraining
from sunbench.methods.bk_sdm.student import Layout, load_pruned
from sunbench.methods.bk_sdm.train import bk_stage
from sunbench.methods.common.settings import settings_for
from sunbench.methods.common.trainees import parameters_of
from sunbench.methods.common.training import TrainingJob
from sunbench.models import LoadedModel, ModelCard
from sunbench.sampling import SampleSettings
from sunbench.store.files import read_toml
from sunbench.training import loop as training_loop
from sunbench.training.data import Listed
from sunbench.training.settings import asked

LOOP = replace(trainings.LOOP, batch=2)
COLORS = ((200, 20, 20), (20, 200, 20), (20, 20, 200))
Make = Callable[..., TrainingJob]


def row(i: int) -> tuple[Any, str]:
    return Image.new("RGB", (16, 16), COLORS[i]), f"a cat {i}"


@pytest.fixture
def make(tiny: ModuleType, tmp_path: Path) -> Make:
    """A job of a method on a base of its own."""
    pipe = tiny.pipeline(tmp_path / "words", **tiny.DEEP)
    card = ModelCard(
        "tiny", "folder", str(tmp_path), architecture="zoo", resolution=16, guidance_scale=5.0
    )
    loaded = LoadedModel(pipe, card, {"unet": "0" * 64}, "own")

    def losses(
        method: str, out: str = "out", loop: dict[str, Any] | None = None, **more: Any
    ) -> TrainingJob:
        settings = {"sheet": 0, "loop": replace(LOOP, **(loop or {})), **more}
        if method.startswith("a-sdm"):
            settings = {"incubation_steps": 2, "incubation_accumulate": 1, **settings}
        kind = AssembledTraining if method.startswith("a-sdm") else PrunedTraining
        listed = Listed("colors", len(COLORS), 16, row)
        return TrainingJob(method, loaded, listed, kind(**settings), tmp_path / out)

    return losses


@pytest.mark.parametrize("form", ["whole", "difference"])
@pytest.mark.parametrize("method", ["bk-sdm-base", "bk-sdm-tiny"])
def test_a_training_writes_what_the_sampler_reads(method: str, form: str, make: Make):
    job = make(method, form=form, experts=2, sheet=1)
    before = {k: v.clone() for k, v in job.pipeline.unet.state_dict().items()}
    stage = bk_stage(job)
    path = stage.run()
    assert path == job.out / f"{method}.safetensors"
    assert (job.out / "sheet-000004.png").is_file()
    said = json.loads((job.out / "training.json").read_text())
    assert said["method"] == method
    assert said["learned_guidance"] is None
    assert said["cost"]["images"] == 8
    assert said["cost"]["parameters"] == parameters_of(stage.trainee.module)
    cut = method.rpartition("-")[2]
    read = load_pruned(path, job.pipeline.unet, cut).state_dict()
    for name, value in stage.trainee.unet.state_dict().items():
        torch.testing.assert_close(
            read[name], value, atol=2e-3 if form == "difference" else 0, rtol=0
        )
    chosen = registry.method(method, weights={method: str(path)})
    assert chosen.skip(job.pipeline, SampleSettings(4, 5.0)) is None
    after = job.pipeline.unet.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for p in job.pipeline.unet.parameters())


def test_the_loss_falls_on_one_batch(make: Make):
    job = make("bk-sdm-base", loop={"steps": 12, "checkpoint_every": 12, "learning_rate": 1e-3})
    stage = bk_stage(job)
    loss = stage.loss
    stage = replace(stage, loss=lambda k: loss(0))
    before = float(loss(0)["loss"].detach())
    stage.run()
    assert float(loss(0)["loss"].detach()) < 0.9 * before


@pytest.mark.parametrize("method", ["bk-sdm-small", "a-sdm-m2", "a-sdm-m5"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    method: str, make: Make, monkeypatch: pytest.MonkeyPatch
):
    """Killed after every checkpoint, in both stages."""

    def run(job: TrainingJob) -> Path:
        return a_sdm.run(job) if method.startswith("a-sdm") else bk_stage(job).run()

    whole = load_file(run(make(method)))
    true, killed = training_loop.TrainingLoop.save, []

    def dies(self: Any, done: int) -> None:
        true(self, done)
        if (str(self.file), done) not in killed:
            killed.append((str(self.file), done))
            raise KeyboardInterrupt

    monkeypatch.setattr(training_loop.TrainingLoop, "save", dies)
    for _ in range(8):
        try:
            path = run(make(method, "again"))
            break
        except KeyboardInterrupt:
            continue
    assert len(killed) == (3 if method.startswith("a-sdm") else 2)
    again = load_file(path)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


# ------------------------------------------------------------------------------ assembly


@pytest.mark.parametrize("method", ["a-sdm-m1", "a-sdm-m3", "a-sdm-m4"])
def test_stages_come_from_base_and_the_rest_from_the_model(method: str, make: Make):
    job = make(method)
    document = job.begin({})
    base_file = a_sdm.incubation(job, document).run()
    base = load_pruned(base_file, job.pipeline.unet, "base").state_dict()
    trainee = a_sdm.assembled(job, base_file)
    cut = a_sdm.cut_name(method)
    begun, own = trainee.unet.state_dict(), Layout(cut).initial(job.pipeline.unet)
    outer = "down_blocks.0.", "up_blocks.3.", "conv_in.", "conv_out.", "conv_norm_out."
    if cut == "m3":
        outer += "down_blocks.1.", "down_blocks.2.", "up_blocks.1.", "up_blocks.2."
    for name, value in begun.items():
        source = base if name.startswith(outer) else own
        assert torch.equal(value, source[name]), name
    free = {n for n, p in trainee.unet.named_parameters() if p.requires_grad}
    frozen_too = set() if method == "a-sdm-m4" else {n for n in begun if not n.startswith(outer)}
    assert free == begun.keys() - frozen_too


def test_what_is_frozen_stays_and_the_rest_moves(make: Make):
    job = make("a-sdm-m2")
    path = a_sdm.run(job)
    trained, own = load_file(path), Layout("m2").initial(job.pipeline.unet)
    for name in ("mid_block.resnets.0.conv1.weight", "down_blocks.2.resnets.0.conv1.weight"):
        assert torch.equal(trained[name], own[name])
    for name in ("conv_in.weight", "down_blocks.1.resnets.0.conv1.weight"):
        assert not torch.equal(trained[name], own[name])
    said = json.loads((job.out / "training.json").read_text())
    assert list(said["cost"]["parts"]) == ["incubation", "assembly"]
    assert said["cost"]["images"] == 2 * (2 + 4)


def test_where_other_parts_come_from_is_an_option(make: Make):
    job = make("a-sdm-m1", mid_from="base", edges_from="sd", time_from="base")
    base_file = a_sdm.incubation(job, job.begin({})).run()
    base = load_pruned(base_file, job.pipeline.unet, "base").state_dict()
    trainee = a_sdm.assembled(job, base_file)
    begun, own = trainee.unet.state_dict(), job.pipeline.unet.state_dict()
    for name in ("mid_block.resnets.0.conv1.weight", "time_embedding.linear_1.weight"):
        assert torch.equal(begun[name], base[name])
        assert trainee.unet.get_parameter(name).requires_grad
    assert torch.equal(begun["conv_in.weight"], own["conv_in.weight"])
    assert not trainee.unet.get_parameter("conv_in.weight").requires_grad


def test_a_base_that_is_trained_already_leaves_out_the_first_stage(make: Make):
    base_file = bk_stage(make("bk-sdm-base", "base")).run()
    job = make("a-sdm-m1", experts=2)
    path = a_sdm.run(job, base_file)
    assert not (job.out / "incubation").exists()
    said = json.loads((job.out / "training.json").read_text())
    assert list(said["from"]) == ["weights"]
    assert (
        registry.method("a-sdm-m1", weights={"a-sdm-m1": str(path)}).skip(
            job.pipeline, SampleSettings(4, 5.0)
        )
        is None
    )
    with pytest.raises(UserError, match="weights of the cut m1, expected base"):
        a_sdm.run(make("a-sdm-m2", "wrong"), path)


def test_supervision_of_the_mid_block_and_by_the_reader(make: Make, tmp_path: Path):
    from safetensors.torch import save_file

    from sunbench.zoo.world.reader import Reader

    file = tmp_path / "reader.safetensors"
    save_file(Reader().state_dict(), file)
    more = {"mid": 0.5, "semantic": 0.1, "semantic_network": "zoo-reader"}
    job = make("bk-sdm-base", semantic_file=str(file), semantic_view="projected", **more)
    losses = bk_stage(job).loss(0)
    assert losses.keys() == {"loss", "task", "output", "feature", "mid", "semantic"}
    weighted = sum(losses[k] for k in ("task", "output", "feature")) + 0.5 * losses["mid"]
    torch.testing.assert_close(losses["loss"], weighted + 0.1 * losses["semantic"])
    said = json.loads((job.out / "training.json").read_text())
    assert said["semantic_file"] == "reader.safetensors"
    decoded = make("bk-sdm-base", "d", semantic_file=str(file), semantic_view="decoded", **more)
    assert float(bk_stage(decoded).loss(0)["semantic"].detach()) > 0
    assert float(bk_stage(make("bk-sdm-base", "shipped", **more)).loss(0)["semantic"].detach()) > 0
    with pytest.raises(UserError, match="this cut has no mid block"):
        bk_stage(make("bk-sdm-small", "m", mid=1.0))


# ------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    "method", [n for n, e in registry.METHODS.items() if e.network and e.trainer]
)
def test_recipes_have_the_budget_of_the_other_methods(method: str):
    kind = AssembledTraining if method.startswith("a-sdm") else PrunedTraining
    s = settings_for(method, kind, None, zoo=True)
    steps = s.loop.steps + getattr(s, "incubation_steps", 0)
    assert steps * s.loop.batch * s.loop.accumulate == 600 * 32
    place = Path(str(_recipes())) / "sd1.5" / f"{method.rpartition('-')[0]}.toml"
    sd15 = settings_for(method, kind, place, zoo=False)
    assert sd15.loop.steps * sd15.loop.batch * sd15.loop.accumulate == 160_000
    for name in ("condconv", "semantic"):
        file = Path(str(_recipes())) / "ablations" / f"{name}.toml"
        assert asked(method, file, zoo=True) == {
            **asked(method, None, zoo=True),
            **read_toml(file),
        }


def _recipes() -> Any:
    from importlib.resources import files

    return files("sunbench.methods").joinpath("recipes")


def test_the_papers_budget_is_the_default():
    bk, m = PrunedTraining(), AssembledTraining()
    assert bk.loop.steps * bk.loop.batch * bk.loop.accumulate == 50_000 * 256
    assert m.loop.steps * m.loop.batch * m.loop.accumulate == 100_000 * 512
    first = m.incubation_loop
    assert first.steps * first.batch * first.accumulate == 50_000 * 256
