"""The benchmark's methods "sun" and "sun-dpm++"; what every method promises is tested elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from sunbench import registry, zoo
from sunbench.methods.sun import SunAdapter, bound, load_sun, write_adapter
from sunbench.sampling import ImageId, SampleBatch, SampleSettings, make_batch
from sunbench.store import sha256_file

Randomly = Callable[..., SunAdapter]
SETTINGS = SampleSettings(4, 8.0)


@pytest.fixture(autouse=True)
def _nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "weights", lambda: tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def batch(width: int = 32) -> SampleBatch:
    g = torch.Generator().manual_seed(1)
    texts = torch.randn(2, 2, 24, width, generator=g)
    return make_batch([ImageId("a", 0), ImageId("b", 0)], texts[0], texts[1], (4, 8, 8))


def test_the_zoo_has_no_adapter_yet(pipe: Any):
    method = registry.method("sun")
    assert method.skip(pipe, SETTINGS) == (
        "sun: no weights for the zoo yet (name some with --weights sun=PATH)"
    )
    assert method.content(pipe, SETTINGS)["weights"] == {}


def test_other_reasons(pipe: Any, randomly: Randomly, tmp_path: Path):
    write_adapter(randomly(pipe.unet), tmp_path / "sun.safetensors")
    method = registry.method("sun")
    assert method.skip(pipe, SETTINGS) is None
    assert "task inpaint" in (method.skip(pipe, SampleSettings(4, 8.0, "inpaint")) or "")
    assert "1001 steps" in (method.skip(pipe, SampleSettings(1001, 8.0)) or "")
    (tmp_path / "other.bin").write_bytes(b"x")
    method = registry.method("sun", weights={"sun": str(tmp_path / "other.bin")})
    assert "pickle" in (method.skip(pipe, SETTINGS) or "")


def test_an_adapter_in_the_hubs_cache_is_found(
    pipe: Any, randomly: Randomly, tiny: Any, tmp_path: Path
):
    """It is for Stable Diffusion 1, so the tiny model still has none."""
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--Williechai--SpeedUpNet"
    path = repo / "snapshots" / commit / "sun_adapter_sdv15_4step_addpos.safetensors"
    path.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    large = tiny.pipeline(tmp_path / "large", cross_attention_dim=768)
    write_adapter(randomly(large.unet, add_pos=True), path, layout="official")
    method = registry.method("sun")
    assert method.content(large, SETTINGS)["weights"]["form"] == "add_pos"
    assert method.skip(large, SETTINGS) is None
    assert "no weights for the zoo yet" in (method.skip(pipe, SETTINGS) or "")


def test_stable_diffusion_without_an_adapter_says_how_to_get_one(tiny: Any, tmp_path: Path):
    large = tiny.pipeline(tmp_path / "large", cross_attention_dim=768)
    reason = registry.method("sun").skip(large, SETTINGS) or ""
    assert "no weights for sd1 yet: hf download Williechai/SpeedUpNet sun_adapter_sdv15" in reason


def test_a_pipeline_that_has_its_own_adapter(pipe: Any, randomly: Randomly):
    load_sun(pipe, randomly(pipe.unet))
    assert "adapter of its own" in (registry.method("sun").skip(pipe, SETTINGS) or "")


def test_an_adapter_for_another_unet_is_a_reason(tiny: Any, randomly: Randomly, tmp_path: Path):
    wide = tiny.pipeline(tmp_path / "wide", block_out_channels=(16, 48))
    write_adapter(randomly(wide.unet), tmp_path / "sun.safetensors")
    other = tiny.pipeline(tmp_path / "other")
    assert "another architecture" in (registry.method("sun").skip(other, SETTINGS) or "")


def test_a_unet_without_cross_attention(tiny: Any, tmp_path: Path):
    bare = tiny.pipeline(
        tmp_path / "bare",
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2D",
    )
    reason = registry.method("sun").skip(bare, SETTINGS)
    assert reason == "sun: given a U-Net without cross-attention, which SUN needs"


@pytest.mark.parametrize(("name", "solver"), [("sun", "ddim"), ("sun-dpm++", "dpm++")])
def test_latents_are_those_of_a_pipeline_with_sun(
    name: str, solver: str, pipe: Any, randomly: Randomly, tmp_path: Path
):
    path = tmp_path / "sun.safetensors"
    write_adapter(randomly(pipe.unet, add_pos=True), path)
    method, own = registry.method(name), pipe.scheduler
    sampler = method.prepare(pipe, SETTINGS)
    latents = sampler.sample(batch())
    assert sampler.nfe == 4
    assert pipe.scheduler is own
    method.release(pipe)
    assert bound(pipe.unet) is None
    load_sun(pipe, path, solver=solver)
    inputs = batch()
    expected = pipe(
        prompt_embeds=inputs.prompt_embeds,
        negative_prompt_embeds=inputs.negative_embeds,
        latents=inputs.latents,
        num_inference_steps=4,
        output_type="latent",
    ).images
    assert torch.equal(latents, expected)


def test_content_knows_weights_form_norm_and_solver(pipe: Any, randomly: Randomly, tmp_path: Path):
    path = tmp_path / "sun.safetensors"
    write_adapter(randomly(pipe.unet, add_pos=True, norm="batch"), path)
    contents = [registry.method(name).content(pipe, SETTINGS) for name in ("sun", "sun-dpm++")]
    about = {"sha256": sha256_file(path), "form": "add_pos", "norm": "batch"}
    assert [c["weights"] for c in contents] == [about] * 2
    assert [c["solver"]["scheduler"] for c in contents] == [
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
    ]
    assert all(c["solver"]["timestep_spacing"] == "trailing" for c in contents)


def test_the_named_adapter_stands_for_all(pipe: Any, randomly: Randomly, tmp_path: Path):
    write_adapter(randomly(pipe.unet), tmp_path / "sun.safetensors")
    write_adapter(randomly(pipe.unet, seed=6), tmp_path / "mine.safetensors")
    for name in ("sun", "sun-dpm++"):
        method = registry.method(name, weights={"sun": str(tmp_path / "mine.safetensors")})
        about = method.content(pipe, SETTINGS)["weights"]
        assert about["sha256"] == sha256_file(tmp_path / "mine.safetensors")
