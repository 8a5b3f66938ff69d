"""LCM, LCM-LoRA and Guided-Distill against plain diffusers; where weights are looked up."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sunbench import registry, zoo
from sunbench.errors import UserError
from sunbench.methods.common.students import student_config
from sunbench.methods.lcm.method import PUBLISHED, SOLVER
from sunbench.models import ModelContext
from sunbench.sampling import ImageId, SampleBatch, SampleSettings, make_batch
from sunbench.store import sha256_file

SETTINGS = SampleSettings(4, 4.0)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "weights", lambda: tmp_path / "weights")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def lcm(path: Path) -> Any:
    """LCM with explicit weights."""
    return registry.method("lcm", weights={"lcm": str(path)})


def batch(width: int, which: tuple[int, ...] = (0, 1, 2)) -> SampleBatch:
    g = torch.Generator().manual_seed(1)
    texts = torch.randn(2, 3, 24, width, generator=g)[:, list(which)]
    return make_batch([ImageId(f"p{i}", 0) for i in which], texts[0], texts[1], (4, 8, 8))


def test_lcm_timesteps_and_boundary_coefficients():
    """Steps of the 50-grid, and sigma_data 0.5 with timestep scaling 10 (facts of the paper)."""
    scheduler = SOLVER.build({"num_train_timesteps": 1000, **SD})
    for steps in (
        [999, 759, 499, 259],
        [999, 879, 759, 639, 499, 379, 259, 139],
        [999, 919, 839, 759, 679, 599, 499, 419, 339, 259, 179, 99],
    ):
        scheduler.set_timesteps(len(steps))
        assert scheduler.timesteps.tolist() == steps
    for t in (0, 19, 999):
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
        size = (10 * t) ** 2 + 0.25
        assert (c_skip, c_out) == pytest.approx((0.25 / size, 10 * t / size**0.5), rel=1e-12)


@pytest.mark.parametrize("name", ["lcm", "guided-distill"])
def test_students_are_plain_diffusers(
    name: str, pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    ours = (
        registry.method(name, weights=weights).prepare(pipeline, SETTINGS).sample(batch(tiny.WIDTH))
    )
    folder = weights["lcm"] if name == "lcm" else Path(weights["guided-distill"]) / "4"
    plain = copy.copy(pipeline)
    plain.unet = UNet2DConditionModel.from_pretrained(folder)
    plain.scheduler = (
        diffusers.LCMScheduler(**SD, original_inference_steps=50)
        if name == "lcm"
        else diffusers.DDIMScheduler(
            **SD, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False
        )
    )
    inputs = batch(tiny.WIDTH)
    expected = plain(
        prompt_embeds=inputs.prompt_embeds,
        latents=inputs.latents,
        generator=inputs.generators,
        num_inference_steps=4,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    assert torch.equal(ours, expected)


def test_w_is_guidance_minus_one(pipeline: Any, tiny: ModuleType, weights: dict[str, str]):
    sampler = registry.method("lcm", weights=weights).prepare(pipeline, SETTINGS)
    seen: list[torch.Tensor] = []
    layer = sampler.pipeline.unet.time_embedding.cond_proj  # type: ignore[attr-defined]
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    sampler.sample(batch(tiny.WIDTH))
    half = torch.exp(torch.arange(128) * -(torch.log(torch.tensor(10000.0)) / 127))
    expected = torch.cat([torch.sin(3000.0 * half), torch.cos(3000.0 * half)])
    torch.testing.assert_close(seen[0], expected.expand(3, -1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("name", ["lcm", "guided-distill"])
def test_w_below_zero_is_never_fed(
    name: str, guidance: float, pipeline: Any, weights: dict[str, str]
):
    """diffusers feeds w = -1 at guidance_scale 0, silently."""
    settings = SampleSettings(4, guidance)
    reason = registry.method(name, weights=weights).skip(pipeline, settings) or ""
    assert f"given guidance_scale {guidance:g}, expected more than 1" in reason
    assert "\n" not in reason
    with pytest.raises(UserError, match="expected more than 1"):
        registry.method(name, weights=weights).prepare(pipeline, settings)


@pytest.mark.parametrize("name", ["lcm", "lcm-lora", "lcm-lora-cfg"])
def test_more_steps_than_the_lcm_grid(name: str, pipeline: Any, weights: dict[str, str]):
    method = registry.method(name, weights=weights)
    assert method.skip(pipeline, SampleSettings(50, 4.0)) is None
    reason = method.skip(pipeline, SampleSettings(51, 4.0))
    assert reason == "51 steps asked, the LCM grid has 50"


@pytest.mark.parametrize("name", ["lcm", "lcm-lora"])
def test_later_draws_are_the_images_own(
    name: str, pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    """Noise between steps comes from each image's generator; another stream gives another image."""
    sampler = registry.method(name, weights=weights).prepare(pipeline, SETTINGS)
    whole = sampler.sample(batch(tiny.WIDTH))
    size = float(whole.abs().max())
    alone = sampler.sample(batch(tiny.WIDTH, (2,)))
    torch.testing.assert_close(alone[0], whole[2], atol=1e-5 * size, rtol=0)
    moved = batch(tiny.WIDTH)
    torch.randn(1, generator=moved.generators[0])
    other = sampler.sample(moved)
    assert not torch.allclose(other[0], whole[0], atol=1e-2 * size)
    assert torch.equal(other[1:], whole[1:])


def test_negative_prompts_act_under_guidance_on_top_alone(
    pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    for name, acts in (("lcm-lora", False), ("lcm-lora-cfg", True), ("lcm", False)):
        sampler = registry.method(name, weights=weights).prepare(pipeline, SETTINGS)
        plain, b = sampler.sample(batch(tiny.WIDTH)), batch(tiny.WIDTH)
        without = SampleBatch(b.prompt_embeds, b.negative_embeds * 0, b.latents, b.generators)
        assert torch.equal(sampler.sample(without), plain) is not acts


def test_a_single_file_is_a_student_of_the_models_own_unet(
    pipeline: Any,
    tiny: ModuleType,
    weights: dict[str, str],
    tmp_path: Path,
):
    first, second = (
        lcm(path).prepare(pipeline, SETTINGS).sample(batch(tiny.WIDTH))
        for path in (Path(weights["lcm"]), Path(weights["lcm"]) / WEIGHTS)
    )
    assert torch.equal(first, second)
    tensors = load_file(Path(weights["lcm"]) / WEIGHTS)
    del tensors["conv_in.weight"]
    save_file(tensors, tmp_path / "some.safetensors")
    assert "lacks 1 of" in (lcm(tmp_path / "some.safetensors").skip(pipeline, SETTINGS) or "")


def test_students_that_do_not_fit(pipeline: Any, tiny: ModuleType, tmp_path: Path):
    pipeline.unet.save_pretrained(tmp_path / "plain")
    wide = {**student_config(pipeline.unet, 256), "cross_attention_dim": 48}
    UNet2DConditionModel.from_config(wide).save_pretrained(tmp_path / "wide" / "unet")
    for name, words in (("plain", "no time_cond_proj_dim"), ("wide", "cross_attention_dim 48")):
        assert words in (lcm(tmp_path / name).skip(pipeline, SETTINGS) or "")


def test_a_model_that_takes_guidance_itself(
    tiny: ModuleType, tmp_path: Path, weights: dict[str, str]
):
    """LCM runs it as it is; CFG and merged weights on top of it would mean nothing."""
    own = tiny.pipeline(tmp_path / "own", time_cond_proj_dim=256)
    method: Any = registry.method("lcm", weights=weights)
    assert method.prepare(own, SETTINGS).pipeline.unet is own.unet
    assert method.content(own, SETTINGS)["weights"] == {}  # they are the model's own
    assert method.trained_weights(own) is None
    for name in ("lcm-lora", "boostdiff-lora", "boostdiff-bitfit"):
        reason = registry.method(name, weights=weights).skip(own, SETTINGS)
        assert reason == f"{name}: the U-Net takes guidance as an input, expected a plain one"


def test_one_student_per_number_of_steps(pipeline: Any, weights: dict[str, str]):
    method = registry.method("guided-distill", weights=weights)
    reason = method.skip(pipeline, SampleSettings(6, 4.0))
    assert reason == "guided-distill: no student for 6 steps, there are some for 1, 4"
    for steps in (1, 4):
        file = Path(weights["guided-distill"]) / str(steps) / WEIGHTS
        content = method.content(pipeline, SampleSettings(steps, 4.0))
        assert content["weights"] == {"sha256": sha256_file(file)}
    other = registry.method("guided-distill", weights={"guided-distill": weights["lcm"]})
    assert "one per number of steps" in (other.skip(pipeline, SETTINGS) or "")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("lcm", "lcm"),
        ("lcm-lora-cfg", "lcm-lora"),
        ("guided-distill", "guided-distill"),
        ("boostdiff-lora-dpm++", "boostdiff-lora"),
        ("boostdiff-bitfit", "boostdiff-bitfit"),
    ],
)
def test_what_is_missing_and_how_to_get_it(method: str, name: str, pipeline: Any):
    ours = registry.method(method)
    assert ours.skip(pipeline, SETTINGS) == (
        f"{method}: no weights for the zoo yet (name some with --weights {name}=PATH)"
    )
    assert ours.content(pipeline, SETTINGS)["weights"] == {}


def shipped(weights: dict[str, str], folder: Path) -> None:
    """Put random weights where the zoo's are."""
    folder.mkdir(parents=True)
    for name, path in weights.items():
        (folder / (name + Path(path).suffix)).symlink_to(path)


def test_the_zoos_weights(pipeline: Any, weights: dict[str, str], tmp_path: Path):
    shipped(weights, tmp_path / "weights")
    for name in weights:
        method = registry.method(name)
        settings = replace(SETTINGS, steps=8) if name == "hyper-sd-cfg" else SETTINGS  # 8 and 12
        assert method.skip(pipeline, settings) is None
        content = method.content(pipeline, settings)
        assert content == registry.method(name, weights=weights).content(pipeline, settings)
        if "fitted" in content:  # a schedule or a rule: its numbers stand in the key
            assert all(np.isfinite(np.ravel(content["fitted"])))
        else:
            assert len(content["weights"]["sha256"]) == 64


def test_a_key_holds_the_weights_that_are_used_and_no_others(
    pipeline: Any, weights: dict[str, str], tmp_path: Path
):
    """Weights of other architectures, models and methods may come and go."""
    shipped(weights, tmp_path / "weights")
    model = ModelContext("mine", "a" * 64)
    ours = {name: registry.method(name, model=model) for name in registry.METHODS}
    before = {name: m.content(pipeline, SETTINGS) for name, m in ours.items()}
    published(Path(weights["lcm"]), tmp_path / "hub")
    own = tmp_path / "weights/own/other/guided-distill"
    own.mkdir(parents=True)
    tensors = load_file(Path(weights["guided-distill"]) / "1" / WEIGHTS)
    save_file(tensors, own / "4.safetensors", {"base_sha256": json.dumps({"unet": "f" * 64})})
    assert {name: m.content(pipeline, SETTINGS) for name, m in ours.items()} == before
    assert {name: m.content(pipeline, SampleSettings(4, 4.0)) for name, m in ours.items()} == before
    (tmp_path / "weights/sun.safetensors").unlink()
    changed = {n for n, m in ours.items() if m.content(pipeline, SETTINGS) != before[n]}
    assert changed == {"sun", "sun-dpm++"}


def published(student: Path, cache: Path) -> None:
    """Put a student where the hub's cache has the authors'."""
    repo = cache / f"models--{PUBLISHED.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "unet").symlink_to(student)


def test_published_weights_in_the_cache_are_labeled(
    distilled: dict[str, Path], tiny: ModuleType, tmp_path: Path
):
    """Of Dreamshaper v7, not of Stable Diffusion 1.5; those missing are told how to get."""
    large = tiny.pipeline(tmp_path / "large", cross_attention_dim=768)
    assert f"hf download {PUBLISHED} --include" in (
        registry.method("lcm").skip(large, SETTINGS) or ""
    )
    published(distilled["lcm"], tmp_path / "hub")
    about = registry.method("lcm").content(large, SETTINGS)["weights"]
    assert "Dreamshaper v7" in about["of"]
    assert about["sha256"] == sha256_file(distilled["lcm"] / WEIGHTS)


def test_a_lora_cannot_be_a_folder(pipeline: Any, tmp_path: Path):
    method = registry.method("lcm-lora", weights={"lcm-lora": str(tmp_path)})
    assert "expected a .safetensors file" in (method.skip(pipeline, SETTINGS) or "")


def test_a_models_own_students_come_first(
    pipeline: Any, distilled: dict[str, Path], tmp_path: Path
):
    """Those trained on just this U-Net, else the base's; one of them is in the cell's key."""
    base, own = tmp_path / "weights/guided-distill", tmp_path / "weights/own/fine/guided-distill"
    for folder, seed, unet in ((base, 4, "b" * 64), (own, 1, "f" * 64)):
        folder.mkdir(parents=True)
        tensors = load_file(distilled["guided-distill"] / str(seed) / WEIGHTS)
        about = {"base_sha256": json.dumps({"unet": unet})}
        save_file(tensors, folder / "4.safetensors", about)
    for sha, folder in (("f" * 64, own), ("b" * 64, base), ("0" * 64, base), (None, base)):
        method: Any = registry.method("guided-distill", model=ModelContext("mine", sha))
        file = folder / "4.safetensors"
        assert method.trained_weights(pipeline) == (folder, "guided-distill")
        assert method.content(pipeline, SETTINGS)["weights"] == {"sha256": sha256_file(file)}
        student = method.prepare(pipeline, SETTINGS).pipeline.unet
        assert torch.equal(student.conv_in.weight, load_file(file)["conv_in.weight"])


def test_the_most_specific_weights_are_taken(pipeline: Any, weights: dict[str, str]):
    """METHOD@MODEL before METHOD, a method's own name before the one it shares weights with."""
    table = {
        "sun-dpm++@mine": "a",
        "sun@mine": "b",
        "sun-dpm++": "c",
        "sun": "d",
    }
    mine = ModelContext("mine")
    for key in list(table):
        method: Any = registry.method("sun-dpm++", weights=table, model=mine)
        assert method.weights.explicit == table.pop(key)
    method = registry.method("sun-dpm++", weights={"sun@other": "x"}, model=mine)
    assert method.weights.explicit is None
