"""LoRAs by name and by card: schedulers, refusals, and a fetch from a stand-in for the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import hub_server
import pytest
import torch
from diffusers import TCDScheduler, UNet2DConditionModel
from random_weights import lora
from safetensors.torch import load_file, save_file

from sunbench import registry
from sunbench.bench.training_requirements import training_requirements
from sunbench.cli.options import split_names
from sunbench.errors import UserError
from sunbench.methods.adapters.spec import SCHEDULERS, parse_adapter
from sunbench.methods.common.cards import published_cards
from sunbench.methods.common.lora import lora_layers, with_lora
from sunbench.methods.lcm.lora import TARGETS
from sunbench.models.sources import shipped_configs
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(4, 4.0)


@pytest.fixture
def path(pipeline: Any, tmp_path: Path) -> Path:
    return lora(pipeline.unet, tmp_path / "mine.safetensors", TARGETS, 3)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with hub_server.in_place_of_the_hub(monkeypatch, tmp_path / "hub") as server:
        yield server


def on_meta(architecture: str) -> Any:
    place = shipped_configs(architecture, Path(architecture)) / "unet" / "config.json"
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads(place.read_text()))


def sampled(
    name: str,
    pipeline: Any,
    tiny: ModuleType,
    settings: SampleSettings = SETTINGS,
    **weights: str,
) -> torch.Tensor:
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    batch = make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8))
    method = registry.method(name, weights=weights)
    sampler = method.prepare(pipeline, settings)
    out = sampler.sample(batch)
    assert sampler.nfe == method.evaluations(settings)
    return out


# ------------------------------------------------------------------------------ names


def test_a_name_says_weights_scheduler_and_settings():
    spec = parse_adapter("lora:owner/name@v2:dir/file.safetensors@tcd(eta=0.5, guidance=cfg)")
    assert (spec.where, spec.scheduler) == ("owner/name@v2:dir/file.safetensors", "tcd")
    assert spec.settings == {"eta": 0.5, "guidance": "cfg", "alpha": "file"}
    assert "eta" not in spec.scheduler_settings()
    assert split_names("ddim,lora:a.safetensors@tcd(eta=0.5,guidance=cfg),sun")[1].endswith("cfg)")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("lora:x.safetensors", "expected lora:WEIGHTS@SCHEDULER(key=value, ...)"),
        ("lora:x.safetensors@dimm", "unknown scheduler 'dimm'; did you mean 'ddim'?"),
        ("lora:x.safetensors@ddim(etta=1)", "unknown setting of ddim 'etta'; did you mean 'eta'?"),
        ("lora:x.safetensors@lcm(eta=1)", "unknown setting of lcm 'eta'"),
        ("lora:x.safetensors@ddim(eta=2)", "given eta = 2, expected a number from 0 to 1"),
        ("lora:x.safetensors@ddim(eta)", "expected key=value"),
        ("lora:x.safetensors@ddim(timestep_spacing=trail)", "did you mean 'trailing'?"),
        ("lora:x.safetensors@dpm++(use_karras_sigmas=1)", "expected true or false"),
        ("lora:x.safetensors@tcd(guidance=1)", "unknown guidance '1'"),
    ],
)
def test_names_that_are_wrong_are_one_line(name: str, line: str):
    with pytest.raises(UserError) as caught:
        registry.method_entry(name)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_samples(scheduler: str, path: Path, pipeline: Any, tiny: ModuleType):
    out = sampled(f"lora:{path}@{scheduler}", pipeline, tiny)
    assert bool(torch.isfinite(out).all())


def test_guidance_on_top_reads_the_negative_prompt(path: Path, pipeline: Any):
    one, two = (registry.method(f"lora:{path}@ddim(guidance={g})") for g in ("none", "cfg"))
    assert (one.evaluations(SETTINGS), two.evaluations(SETTINGS)) == (4, 8)
    assert not training_requirements("tiny", one, pipeline).negative_prompts
    assert training_requirements("tiny", two, pipeline).negative_prompts
    reason = two.skip(pipeline, SampleSettings(4, 1.0))
    assert "this LoRA takes two" in str(reason)


# ------------------------------------------------------------------------------ TCD


@pytest.mark.oracle
@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_tcd_is_diffusers(eta: float, path: Path, pipeline: Any, tiny: ModuleType):
    """Its scheduler by hand, on the merged U-Net, with the images' own noise."""
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    batch = make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8))
    plain = TCDScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False
    )
    plain.set_timesteps(4)
    net, x = with_lora(pipeline.unet, path), batch.latents
    with torch.no_grad():
        for t in plain.timesteps:
            eps = net(x, t, texts[0]).sample
            x = plain.step(eps, t, x, eta=eta, generator=batch.generators).prev_sample
    ours = sampled(f"lora:{path}@tcd(eta={eta})", pipeline, tiny)
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_more_steps_than_the_grid_are_refused(path: Path, pipeline: Any):
    reason = registry.method(f"lora:{path}@tcd").skip(pipeline, SampleSettings(51, 4.0))
    assert "51 steps asked" in str(reason)


# ------------------------------------------------------------------------------ files


def test_a_key_without_a_place_is_one_line(path: Path, pipeline: Any, tmp_path: Path):
    tensors = load_file(path)
    stray = {**tensors, "lora_unet_extra.weight": torch.zeros(2)}
    save_file(stray, tmp_path / "stray.safetensors")
    reason = registry.method(f"lora:{tmp_path / 'stray.safetensors'}@ddim").skip(pipeline, SETTINGS)
    assert reason is not None
    assert "has 1 tensors that belong to no LoRA layer" in reason
    assert "\n" not in reason


def test_alpha_is_the_rank_where_the_name_says_so(path: Path, pipeline: Any, tmp_path: Path):
    bare = {k: v for k, v in load_file(path).items() if not k.endswith("alpha")}
    save_file(bare, tmp_path / "bare.safetensors")
    name = f"lora:{tmp_path / 'bare.safetensors'}@ddim"
    assert "no alpha" in str(registry.method(name).skip(pipeline, SETTINGS))
    assert registry.method(name + "(alpha=rank)").skip(pipeline, SETTINGS) is None
    layers = lora_layers(tmp_path / "bare.safetensors", pipeline.unet, alpha_is_rank=True)
    assert {layer.scale for layer in layers} == {1.0}
    assert {layer.scale for layer in lora_layers(path, pipeline.unet, alpha_is_rank=True)} == {0.5}


def test_a_lora_of_another_family_says_which(tmp_path: Path):
    """SDXL's text embeddings are 2048 wide, Stable Diffusion 1's 768."""
    unet = on_meta("sd1")
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    stem = f"lora_unet_{module.replace('.', '_')}"
    save_file(
        {
            f"{stem}.lora_down.weight": torch.zeros(2, 2048),
            f"{stem}.lora_up.weight": torch.zeros(640, 2),
            f"{stem}.alpha": torch.tensor(2.0),
        },
        tmp_path / "xl.safetensors",
    )
    with pytest.raises(UserError, match="LoRA for Stable Diffusion XL, down_blocks"):
        lora_layers(tmp_path / "xl.safetensors", unet)


@pytest.mark.oracle
def test_one_step_of_tcd_is_one_of_ddim(path: Path, pipeline: Any, tiny: ModuleType):
    """So that Hyper-SD's 1-step LoRA, which its authors run by TCD, has DDIM as the others."""
    one = replace(SETTINGS, steps=1)
    tcd, ddim = (
        sampled(f"lora:{path}@{name}", pipeline, tiny, one) for name in ("tcd(eta=1)", "ddim")
    )
    torch.testing.assert_close(tcd, ddim, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------ cards


@pytest.mark.parametrize("name", sorted(published_cards("adapters")))
def test_cards_are_complete(name: str):
    method: Any = registry.method(name)
    assert method.license
    assert method.weights.published == published_cards("adapters")[name]["repository"]
    assert registry.METHODS[name].weights == name


def test_a_file_per_number_of_steps(pipeline: Any):
    reason = registry.method("hyper-sd").skip(pipeline, SampleSettings(3, 4.0))
    assert reason == "hyper-sd: no weights for 3 steps, there are some for 1, 2, 4, 8"


def test_a_card_fetches_the_file_for_the_steps(pipeline: Any, hub: Any, tmp_path: Path):
    """The tiny U-Net is no Stable Diffusion 1, so the repository is named."""
    folder = tmp_path / "repo"
    folder.mkdir()
    for steps, file in published_cards("adapters")["hyper-sd"]["files"].items():
        lora(pipeline.unet, folder / file, TARGETS, int(steps))
    hub.add("ByteDance/Hyper-SD", folder)
    method = registry.method("hyper-sd", weights={"hyper-sd": "ByteDance/Hyper-SD"})
    assert method.skip(pipeline, SampleSettings(4, 4.0)) is None
    assert hub.downloads() == ["Hyper-SD15-4steps-lora.safetensors"]
    four, eight = (method.content(pipeline, SampleSettings(n, 4.0)) for n in (4, 8))
    assert four["weights"] != eight["weights"]
    assert training_requirements("tiny", method, pipeline).license == "not stated"


def test_a_name_fetches_what_it_names(pipeline: Any, hub: Any, tmp_path: Path, tiny: ModuleType):
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    lora(pipeline.unet, folder / "sub" / "x.safetensors", TARGETS, 3)
    hub.add("me/loras", folder)
    out = sampled("lora:me/loras:sub/x.safetensors@tcd(eta=0)", pipeline, tiny)
    assert bool(torch.isfinite(out).all())
    assert hub.downloads() == ["sub/x.safetensors"]


def test_full_shapes_of_stable_diffusion_fit(tmp_path: Path):
    """A LoRA of rank 1 on all published targets of the full U-Net, random weights."""
    unet = on_meta("sd1")
    path = lora(unet, tmp_path / "full.safetensors", TARGETS, 0)
    layers = lora_layers(path, unet)
    assert len(layers) == len({layer.module for layer in layers}) == 278
