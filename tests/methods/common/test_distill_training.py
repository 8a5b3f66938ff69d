"""Trainings: what they write, losses going down, bit-exact resuming, files in the sampler."""

from __future__ import annotations

import copy
import csv
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from trainings import CLASSES, FITTED, METHODS

from sunbench import registry
from sunbench.cli import main
from sunbench.errors import UserError
from sunbench.methods.agd.train import agd_stage
from sunbench.methods.boostdiff import method as boostdiff
from sunbench.methods.boostdiff.settings import BoostLoraTraining
from sunbench.methods.boostdiff.train import attention_lora_stage, bitfit_stage
from sunbench.methods.common.deltas import is_difference
from sunbench.methods.common.lora import write_lora
from sunbench.methods.common.losses import Feed
from sunbench.methods.common.settings import settings_for
from sunbench.methods.common.students import load_student
from sunbench.methods.common.trainees import (
    FILE,
    BiasStudent,
    LoraStudent,
    WholeStudent,
    parameters_of,
)
from sunbench.methods.common.training import Stage, TrainingJob, start_file
from sunbench.methods.dmd2.train import dmd2_stage
from sunbench.methods.guided_distill.settings import GuidedTraining
from sunbench.methods.guided_distill.train import Earlier, stage1, stage2
from sunbench.methods.guided_distill.train import run as run_guided
from sunbench.methods.lcm import lora as lcm_lora
from sunbench.methods.lcm.settings import LcmLoraTraining, LcmTraining
from sunbench.methods.lcm.train import lcm_lora_stage, lcm_stage
from sunbench.methods.pcm.train import pcm_stage
from sunbench.methods.tcd.train import tcd_stage
from sunbench.models import cards
from sunbench.models.sources import shipped_configs
from sunbench.registry import trained_methods, trainer
from sunbench.sampling import ImageId, PipelineSampler, SampleSettings, make_batch
from sunbench.training.encode import encode_texts
from sunbench.training.settings import zoo_recipe

Make = Callable[..., TrainingJob]
Train = Callable[[TrainingJob], Path]


def on_meta(architecture: str) -> Any:
    place = shipped_configs(architecture, Path(architecture)) / "unet" / "config.json"
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads(place.read_text()))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Of a file, or of all weights under a folder by their places."""
    if path.is_file():
        return load_file(path)
    return {
        f"{file.parent.name}/{k}": v
        for file in sorted(path.rglob(FILE))
        for k, v in load_file(file).items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stages(job: TrainingJob) -> list[Stage]:
    """The stages of a method, as they begin."""
    single = {
        "lcm": lcm_stage,
        "lcm-lora": lcm_lora_stage,
        "boostdiff-lora": attention_lora_stage,
        "boostdiff-bitfit": bitfit_stage,
        "tcd-lora": tcd_stage,
        "pcm-lora": pcm_stage,
        "dmd2-lora": dmd2_stage,
        "agd": agd_stage,
    }
    if job.method in single:
        return [single[job.method](job)]
    document, none = job.begin({}), Earlier(None)
    first = stage1(job, document, none)
    teacher = WholeStudent(job.pipeline.unet).unet.requires_grad_(False)
    return [first, stage2(job, document, none, teacher, 2)]


# ------------------------------------------------------------------------------ parameters


def test_trained_parameters_are_those_of_the_papers():
    sd1, sd2 = on_meta("sd1"), on_meta("sd2")
    lora = LoraStudent(sd1, lcm_lora.TARGETS, lcm_lora.RANK)
    assert parameters_of(lora.module) == parameters_of(lora.unet) == 67_252_224
    boost = LoraStudent(sd2, boostdiff.TARGETS, BoostLoraTraining().rank)
    assert parameters_of(boost.module) == parameters_of(boost.unet) == 1_659_904
    bias = BiasStudent(sd2)
    assert parameters_of(bias.module) == parameters_of(bias.unet) == 343_684


def test_a_student_has_the_w_inputs_parameters_more(pipe: Any):
    more = 256 * pipe.unet.config.block_out_channels[0]
    before = sum(p.numel() for p in pipe.unet.parameters())
    assert parameters_of(WholeStudent(pipe.unet).module) == before + more


# ------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("method", METHODS)
def test_a_training_writes_what_it_promises(method: str, make: Make, train: Train):
    job = make(method, file_dtype="float16")
    before = {k: v.clone() for k, v in job.pipeline.unet.state_dict().items()}
    path = train(job)
    out = job.out
    folders = [out]
    if method == "guided-distill":
        assert sorted(p.name for p in path.iterdir()) == ["1", "2", "3"]
        folders = [out / "stage1", out / "steps-2", out / "steps-1", out / "steps-3"]
    for folder in folders:
        names = {p.name for p in folder.iterdir() if p.is_file()} - {"training.json"}
        expected = {"checkpoint.safetensors", "loss.csv", "loss.png", "sheet-000002.png"}
        assert names - {path.name} == expected | {"sheet-000004.png"}
        with Image.open(folder / "sheet-000004.png") as sheet:
            assert sheet.size == (2 * 18 + 2, 2 * 18 + 2)
        with (folder / "loss.csv").open() as file:
            assert [r["step"] for r in csv.DictReader(file)] == ["1", "2", "3", "4"]
    said = json.loads((out / "training.json").read_text())
    assert (said["method"], said["base"]) == (method, "tiny")
    assert said["base_sha256"] == {"unet": "0" * 64}
    assert said["loop"]["learning_rate"] == 3e-3
    images = 16 * len(folders)
    assert (said["cost"]["images"], said["cost"]["steps"]) == (images, images // 4)
    assert said["cost"]["seconds"] > 0
    trained = sum(x.numel() for k, x in tensors(path).items() if not k.endswith("alpha"))
    assert said["cost"]["parameters"] == trained // max(1, len(folders) - 1)
    if method == "guided-distill":
        parts = said["cost"]["parts"]
        assert list(parts) == ["stage1", "2", "1", "3"]
        assert sum(p["seconds"] for p in parts.values()) == pytest.approx(said["cost"]["seconds"])
    kinds = {x.dtype for k, x in tensors(path).items() if not k.endswith("alpha")}
    assert kinds == {torch.float32 if method == "boostdiff-bitfit" else torch.float16}
    after = job.pipeline.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for p in job.pipeline.unet.parameters())


def test_students_as_differences(make: Make, train: Train):
    """What is written is what was trained, rounded; another training can begin with it."""
    job = make("lcm", form="difference", sheet=0)
    path = train(job)
    assert path == job.out / "lcm.safetensors"
    assert is_difference(path)
    rounded = load_student(path, job.pipeline.unet).state_dict()
    begun = WholeStudent(job.pipeline.unet, path).unet.state_dict()
    assert all(torch.equal(begun[k], x) for k, x in rounded.items())
    guided = make("guided-distill", "g", form="difference", sheet=0)
    folder = train(guided)
    names = [f"{n}.safetensors" for n in (1, 2, 3)]
    assert sorted(p.name for p in folder.iterdir()) == names
    earlier = Earlier.named(str(guided.out))
    assert [earlier.round(n) for n in (1, 2, 3)] == [folder / name for name in names]
    assert earlier.stage1() == guided.out / "stage1" / "student.safetensors"
    base = guided.pipeline.unet.state_dict()
    for n in (1, 2, 3):  # of the base, though students teach students
        read = load_student(folder / f"{n}.safetensors", guided.pipeline.unet).state_dict()
        worst = max(float((read[k] - base[k]).abs().max()) for k in base)
        assert 0 < worst < 0.2


def test_files_say_how_they_were_trained(make: Make, train: Train):
    with safe_open(train(make("boostdiff-lora", sheet=0)), "pt") as file:
        about = file.metadata()
    assert about["guidance_scale"] == "5.0"
    assert json.loads(about["base_sha256"]) == {"unet": "0" * 64}
    assert json.loads(about["training"])["weight"] == "constant"
    ranged = make("lcm-lora", "r", sheet=0, guidance_scale=None, guidance_min=2.0, guidance_max=9.0)
    with safe_open(train(ranged), "pt") as file:
        assert "guidance_scale" not in file.metadata()


# ------------------------------------------------------------------------------ samplers


def sample(pipe: Any, unet: Any, method: str, steps: int) -> torch.Tensor:
    """A U-Net's latents under a method's solver, one conditional pass per step."""
    own = copy.copy(pipe)
    own.unet = unet
    solver: Any = registry.method(method)
    own.scheduler = solver.solver.build(pipe.scheduler.config)
    sampler = PipelineSampler(own, SampleSettings(steps, 1.0))
    if method == "tcd-lora":
        sampler.more = {"eta": 0.3}
    return sampler.sample(batch(pipe))


def batch(pipe: Any) -> Any:
    c = encode_texts(pipe, ["a red cat", "a teal egg"])
    return make_batch([ImageId("p0", 0), ImageId("p1", 0)], c, c, (4, 8, 8))


@pytest.mark.parametrize("method", METHODS)
def test_files_load_in_the_sampler_and_change_its_images(method: str, make: Make, train: Train):
    """Untrained weights are the base in one pass, to rounding; trained ones are not."""
    job, steps = make(method, sheet=0), 2
    base = sample(job.pipeline, job.pipeline.unet, method, steps)
    size = float(base.abs().max())
    first = stages(make(method, "first"))[-1]
    first.write()
    paths = {"first": first.target, "trained": train(job)}
    if method == "guided-distill":
        paths["first"] = first.target.parent
    latents = {}
    for name, path in paths.items():
        chosen = registry.method(method, weights={method: str(path)})
        assert chosen.skip(job.pipeline, SampleSettings(steps, 5.0)) is None
        latents[name] = chosen.prepare(job.pipeline, SampleSettings(steps, 5.0)).sample(
            batch(job.pipeline)
        )
    torch.testing.assert_close(latents["first"], base, atol=1e-4 * size, rtol=0)
    assert float((latents["trained"] - base).abs().max()) > 1e-3 * size


@pytest.mark.parametrize("method", ["lcm-lora", "boostdiff-lora", "boostdiff-bitfit"])
def test_merged_weights_are_the_network_that_was_trained(method: str, make: Make):
    job = make(method, sheet=0)
    (stage,) = stages(job)
    chosen: Any = registry.method(method, weights={method: str(stage.run())})
    ours = chosen.network(job.pipeline, SampleSettings(4, 5.0))
    x, t = (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([9, 900]),
    )
    c = encode_texts(job.pipeline, ["a red cat", "a teal egg"])
    with torch.no_grad():
        expected = stage.trainee.unet(x, t, c).sample
        torch.testing.assert_close(ours(x, t, c).sample, expected, atol=1e-5, rtol=1e-4)


def test_students_open_in_plain_diffusers(make: Make, train: Train):
    path = train(make("lcm", sheet=0))
    student = UNet2DConditionModel.from_pretrained(path)
    assert student.config.time_cond_proj_dim == 256
    assert same(student.state_dict(), tensors(path / FILE))


# ------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    ("method", "which", "rate", "changes"),
    [
        ("lcm", 0, 1e-3, {"loss": "l2"}),
        ("lcm", 0, 1e-3, {"loss": "huber", "target": "student"}),
        ("lcm-lora", 0, 1e-2, {}),
        ("guided-distill", 0, 1e-3, {}),
        ("guided-distill", 1, 3e-4, {}),
        ("boostdiff-lora", 0, 1e-2, {}),
        ("boostdiff-lora", 0, 1e-2, {"weight": "snr"}),
        ("boostdiff-bitfit", 0, 1e-2, {}),
    ],
)
def test_a_few_steps_lower_each_loss(
    method: str, which: int, rate: float, changes: dict[str, Any], make: Make
):
    """On one micro-batch again and again: others differ by more than a few steps can mend."""
    loop = {"checkpoint_every": 24, "ema": 0.5, "learning_rate": rate, "steps": 24}
    if method == "guided-distill":
        changes = {**changes, "round_steps": 24, "last_steps": 24}
    stage = stages(make(method, sheet=0, loop=loop, **changes))[which]
    stage = replace(stage, loss=partial(_again, stage.loss))
    if stage.on_begin is not None:
        stage.on_begin({k: v.clone() for k, v in stage.trainee.module.state_dict().items()})
    before = float(stage.loss(0)["loss"].detach())
    stage.run()
    after = float(stage.loss(0)["loss"].detach())
    assert after < 0.9 * before, (after, before)


def _again(loss: Callable[[int], Any], k: int) -> Any:
    return loss(0)


def test_the_target_network_is_the_average(make: Make):
    """At every step, not a copy that lags: LCM's target has the weights that end in the file."""
    stage = stages(make("lcm", sheet=0))[0]
    stage.run()
    average: Any = stage.loss.target.unet  # type: ignore[attr-defined]
    checkpoint = load_file(stage.folder / "checkpoint.safetensors")
    for name, value in average.state_dict().items():
        assert torch.equal(value, checkpoint[f"ema/{name}"])
    assert not any(p.requires_grad for p in average.parameters())
    alone = stages(make("lcm", "alone", target="student"))[0]
    assert alone.loss.target is alone.loss.student  # type: ignore[attr-defined]


def test_autocast_does_not_lose_gradients(make: Make):
    """The student also answers at the target, without gradients; a cache of cast weights would
    take them from its own pass."""
    stage = stages(make("lcm-lora", sheet=0))[0]
    for layer in stage.trainee.layers.values():  # type: ignore[attr-defined]
        torch.nn.init.normal_(
            layer["up"].weight, std=0.1, generator=torch.Generator().manual_seed(0)
        )
    grads = []
    for on in (False, True):
        stage.trainee.module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            stage.loss(0)["loss"].backward()
        grads.append(torch.cat([p.grad.flatten() for p in stage.trainee.module.parameters()]))
    assert float(torch.nn.functional.cosine_similarity(*grads, dim=0)) > 0.9


# ------------------------------------------------------------------------------ resuming


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_resumed_training_equals_uninterrupted_to_the_bit(
    method: str, make: Make, train: Train, monkeypatch: pytest.MonkeyPatch
):
    """Killed in the fourth step, in Guided-Distill that of its second round."""
    whole = tensors(train(make(method, "whole", sheet=0)))
    draw, seen = Feed.draw, []

    def dies(self: Feed, k: int) -> Any:
        seen.append(k)
        if seen.count(3) == (3 if method == "guided-distill" else 1):
            raise Killed
        return draw(self, k)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "draw", dies)
        with pytest.raises(Killed):
            train(make(method, "killed", sheet=0))
    job = make(method, "killed", sheet=0)
    drawn: list[int] = []

    def counts(self: Feed, k: int) -> Any:
        drawn.append(k)
        return draw(self, k)

    monkeypatch.setattr(Feed, "draw", counts)
    assert same(tensors(train(job)), whole)
    assert drawn == ([2, 3, 0, 1, 2, 3] if method == "guided-distill" else [2, 3])
    said = json.loads((job.out / "training.json").read_text())["cost"]
    assert said["images"] == 16 * (4 if method == "guided-distill" else 1)


def test_other_settings_are_refused_in_a_begun_folder(make: Make, train: Train):
    data = tensors(train(make("boostdiff-bitfit", sheet=0)))
    with pytest.raises(
        UserError, match=r"begun with weight = constant, asked snr; .*another folder"
    ):
        train(make("boostdiff-bitfit", sheet=0, weight="snr"))
    with pytest.raises(UserError, match=r"begun with method = boostdiff-bitfit"):
        train(make("boostdiff-lora", sheet=0))
    with pytest.raises(UserError, match=r"begun with learning_rate = 0\.003"):
        train(make("boostdiff-bitfit", sheet=0, loop={"learning_rate": 1.0}))
    path = make("boostdiff-bitfit").out / "boostdiff-bitfit.safetensors"
    assert same(tensors(path), data)


# ------------------------------------------------------------------------------ earlier weights


def test_a_fine_tunes_training_begins_at_the_bases_students(make: Make, train: Train):
    base = make("guided-distill", "base", sheet=0)
    train(base)
    earlier = Earlier.named(str(base.out))
    job = make("guided-distill", "fine", sheet=0)
    document = job.begin(earlier.hashes((2, 1, 3)))
    assert list(document["from"]) == ["stage1", "2", "1", "3"]
    stage = stage1(job, document, earlier)
    assert same(stage.trainee.module.state_dict(), tensors(base.out / "stage1/student" / FILE))
    second = stage2(job, document, earlier, stage.trainee.unet, 2)
    assert same(second.trainee.module.state_dict(), tensors(base.out / "guided-distill/2" / FILE))
    third = stage2(job, document, Earlier(None), stage.trainee.unet, 2)
    assert same(third.trainee.module.state_dict(), stage.trainee.module.state_dict())
    assert Earlier.named(str(base.out / "guided-distill")).round(1) is not None
    run_guided(make("guided-distill", "whole", sheet=0), earlier)
    with pytest.raises(UserError, match="begun with from"):
        run_guided(make("guided-distill", "whole", sheet=0), Earlier(None))


def test_students_loras_and_biases_go_on_from_a_file(make: Make, train: Train):
    for method, begin in (
        ("lcm", lcm_stage),
        ("lcm-lora", lcm_lora_stage),
        ("boostdiff-lora", attention_lora_stage),
        ("boostdiff-bitfit", bitfit_stage),
    ):
        path = train(make(method, f"{method}-1", sheet=0))
        first = tensors(path)
        stage = begin(make(method, f"{method}-2", sheet=0), path)
        stage.write()
        second = tensors(stage.target)
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, atol=1e-7, rtol=1e-5)


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("width", "rank", "line"),
    [
        (17, 2, "LoRA for another architecture"),
        (16, 3, r"LoRA on 1 layers, expected 32"),
    ],
)
def test_loras_that_do_not_fit(width: int, rank: int, line: str, make: Make, tmp_path: Path):
    path = tmp_path / "other.safetensors"
    write_lora(path, {Q: (torch.zeros(rank, width), torch.zeros(width, rank))}, 1.0)
    with pytest.raises(UserError, match=line) as caught:
        attention_lora_stage(make("boostdiff-lora", sheet=0), path)
    assert "\n" not in str(caught.value)


def test_a_lora_of_another_rank_or_without_alpha(make: Make, train: Train, tmp_path: Path):
    path = train(make("boostdiff-lora", sheet=0))
    with pytest.raises(UserError, match="LoRA of rank 2, expected 4"):
        attention_lora_stage(make("boostdiff-lora", "more", sheet=0, rank=4), path)
    from safetensors.torch import save_file

    bare = tmp_path / "bare.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.endswith("alpha")}, bare)
    with pytest.raises(UserError, match="no alpha for"):
        attention_lora_stage(make("boostdiff-lora", "bare", sheet=0), bare)


def test_weights_to_begin_with_that_are_not_there(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"given --from 'x', expected a \.safetensors file of lcm-lora"
    ):
        start_file("x", "lcm-lora")
    with pytest.raises(UserError, match=r"expected a \.safetensors file"):
        start_file(str(tmp_path), "lcm-lora")
    assert start_file(str(tmp_path), "lcm", folders=True) == tmp_path
    assert start_file(None, "lcm") is None
    with pytest.raises(UserError, match="expected the folder of a guided-distill training"):
        Earlier.named(str(tmp_path))


def test_bases_that_cannot_be_distilled(tiny: ModuleType, make: Make, tmp_path: Path):
    job = make("lcm", sheet=0)
    job.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(UserError, match="predicts 'v_prediction', expected the noise"):
        lcm_stage(job)
    job.loaded.pipeline.unet = WholeStudent(job.pipeline.unet).unet
    with pytest.raises(UserError, match="takes guidance as an input, expected a plain one"):
        make("lcm")


# ------------------------------------------------------------------------------ settings


def test_defaults_are_the_papers():
    s = LcmTraining()
    assert (s.k, s.guidance_min - 1, s.guidance_max - 1, s.loss) == (20, 2, 14, "l2")
    assert (s.loop.steps, s.loop.batch, s.loop.learning_rate) == (100_000, 72, 8e-6)
    g = GuidedTraining()
    assert (g.loop.steps, g.loop.batch) == (3000, 512)
    assert [g.round_loop(n).steps for n in (16, 8, 4, 1)] == [2000, 2000, 20_000, 20_000]
    b = BoostLoraTraining()
    assert (b.rank, b.guidance_scale, b.weight) == (8, 3.0, "constant")
    assert (b.loop.steps, b.loop.batch, b.loop.rate(0), b.loop.rate(1599)) == (
        1600,
        512,
        5e-5,
        5e-5,
    )
    assert LcmLoraTraining().rank == 64
    assert LcmLoraTraining().guidance(7.5).single == 7.5


def test_a_round_is_taught_by_twice_its_steps_or_by_stage_1():
    rounds = GuidedTraining(rounds=(16, 8, 4, 24, 12)).teachers()
    assert rounds == {16: None, 8: 16, 4: 8, 24: None, 12: 24}
    assert GuidedTraining(rounds=()).teachers() == {}


@pytest.mark.parametrize("method", [*METHODS, *FITTED])
def test_recipes_of_the_zoo(method: str):
    """They hold what the cards ask for and no strange key."""
    settings = settings_for(method, {**CLASSES, **FITTED}[method], None, zoo=True)
    zoo = [card for card in cards().values() if card.source == "zoo"]
    assert len(zoo) == 4
    for card in zoo:
        g = settings.guidance(card.guidance_scale)  # type: ignore[attr-defined]
        assert g.low <= card.guidance_scale <= g.high
        assert g.single in (None, card.guidance_scale)
    assert settings.loop.dtype == "float32"  # bfloat16's rounding is a third of these losses
    assert set(zoo_recipe(method)) <= {f.name for f in fields(settings)}


def test_a_file_stands_over_the_recipe(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('weight = "v"\n[loop]\nsteps = 7\n')
    zoo = settings_for("boostdiff-lora", BoostLoraTraining, file, zoo=True)
    assert (zoo.weight, zoo.guidance_scale, zoo.loop.steps, zoo.loop.batch) == ("v", 3.0, 7, 32)
    other = settings_for("boostdiff-lora", BoostLoraTraining, file, zoo=False)
    assert (other.weight, other.guidance_scale, other.loop.batch) == ("v", 3.0, 512)


@pytest.mark.parametrize(
    ("method", "text", "line"),
    [
        ("lcm", "kk = 1", "unknown lcm training setting 'kk'; did you mean 'k'?"),
        ("lcm", "k = 40", "given k = 40, expected a divisor of 20: the 50 steps of LCM's sampler"),
        ("lcm", "k = 0", "given k = 0, expected a divisor of 20"),
        ("lcm", "guidance_min = 1.0", "given guidance_scale 1, expected more than 1"),
        ("lcm", "guidance_min = 0", "given guidance_scale 0, expected more than 1"),
        ("lcm", "guidance_min = 20.0", "given guidance_max = 15, expected at least 20"),
        ("lcm", "levels = 8", "given levels = 8, expected an odd number from 3 to 255"),
        ("lcm", 'form = "half"', "unknown form 'half'"),
        ("lcm", 'loss = "l1"', "unknown loss 'l1'; did you mean 'l2'?"),
        ("lcm", 'target = "emma"', "did you mean 'ema'?"),
        ("lcm", 'file_dtype = "float8"', "unknown file_dtype 'float8'"),
        ("lcm", "[loop]\nbatch = 0", "given batch = 0, expected 1 to 1e+09"),
        ("lcm", "[loop]\nlearning_rate = nan", "given learning_rate = nan, expected 1e-12 to 10"),
        ("lcm", "[loop]\nlearning_rate = -1", "given learning_rate = -1, expected 1e-12 to 10"),
        ("lcm", "[loop]\nlearning_rate = inf", "given learning_rate = inf"),
        ("lcm", "[loop]\nbetas = [0.9]", "given betas = [0.9], expected two"),
        ("lcm", "[loop]\nbetas = [0.9, 1.0]", "given betas = 1, expected 0 to 1"),
        ("lcm", f"[loop]\nseed = 1{'0' * 400}", "given seed = 1000"),
        ("lcm", '[loop]\ndtype = "float16"', "unknown dtype 'float16'"),
        ("lcm", '[loop]\nsteps = "many"', "given steps = 'many', expected int"),
        ("lcm", '[loop]\ndtype = "half"', "unknown dtype 'half'"),
        ("lcm", "[loop]\nstep = 1", "unknown training setting 'step'"),
        ("lcm-lora", "guidance_min = 2.0", "expected both or none"),
        ("lcm-lora", "guidance_scale = 0", "given guidance_scale 0, expected more than 1"),
        (
            "lcm-lora",
            "guidance_scale = 2.0\nguidance_min = 2.0\nguidance_max = 3.0",
            "given guidance_scale and guidance_min, expected one of them",
        ),
        ("lcm-lora", "rank = 0", "given rank = 0, expected 1 to 4096"),
        ("guided-distill", "rounds = [8, 8]", "given rounds = [8, 8], expected each once"),
        ("guided-distill", "rounds = [0]", "given rounds = 0, expected 1 to 500"),
        ("guided-distill", "rounds = 8", "given rounds = 8, expected tuple[int, ...]"),
        ("guided-distill", 'weight = "snr_trunk"', "did you mean 'snr_trunc'?"),
        ("boostdiff-lora", "guidance_scale = 1.0", "expected more than 1"),
        ("boostdiff-bitfit", "rank = 8", "unknown boostdiff-bitfit training setting 'rank'"),
    ],
)
def test_settings_that_are_wrong_are_one_line(tmp_path: Path, method: str, text: str, line: str):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        settings_for(method, CLASSES[method], file, zoo=False)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ command


def test_every_training_leads_somewhere():
    pruned = {f"bk-sdm-{kind}" for kind in ("base", "small", "tiny")}
    pruned |= {f"a-sdm-m{k}" for k in range(1, 7)}
    assert set(trained_methods()) == {"sun", *METHODS, *FITTED, *pruned}
    assert all(callable(trainer(name)) for name in trained_methods())
    with pytest.raises(UserError, match=r"unknown training 'lmc'; did you mean 'lcm'\?"):
        trainer("lmc")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sunbench", "train", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_the_command(
    tiny: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    tiny.pipeline(tmp_path / "words").save_pretrained(tmp_path / "tiny")
    card, config, pets = tmp_path / "tiny.toml", tmp_path / "mine.toml", tmp_path / "pets"
    card.write_text(tiny._card("tiny", tmp_path, tmp_path / "prompts.txt"))
    pets.mkdir()
    Image.new("RGB", (16, 16), "red").save(pets / "red.png")
    (pets / "red.txt").write_text("a red cat")
    config.write_text('sheet = 0\n[loop]\nsteps = 1\nbatch = 2\ndtype = "float32"\n')
    common = ["--base", str(card), "--config", str(config), "--data", str(pets), "--device", "cpu"]
    for method, name in (("boostdiff-bitfit", "boostdiff-bitfit.safetensors"), ("lcm", "lcm")):
        out = tmp_path / f"out-{method}"
        assert run(monkeypatch, method, "--out", str(out), *common) == 0
        assert f"Weights: {out / name}" in capsys.readouterr().out
        assert set(json.loads((out / "training.json").read_text())["base_sha256"]) >= {
            "unet",
            "vae",
        }
        assert f"# {method} for tiny" in (out / "README.md").read_text()
    config.write_text("steps = [1, 2]\nimages = 2\ngrid = 4\n[loop]\nbatch = 2\n")
    assert run(monkeypatch, "gits", "--out", str(tmp_path / "g"), *common) == 0
    assert f"Weights: {tmp_path / 'g' / 'gits.safetensors'}" in capsys.readouterr().out
    assert "# gits for tiny" in (tmp_path / "g" / "README.md").read_text()
    words = ["lcm-lora", "--out", str(tmp_path / "l"), *common, "--from", "nowhere"]
    assert run(monkeypatch, *words) == 2
    assert "given --from 'nowhere'" in capsys.readouterr().err
    assert run(monkeypatch, "sun", "--out", str(tmp_path / "s"), *common, "--from", "x") == 2
    assert "sun starts at the base itself" in capsys.readouterr().err
