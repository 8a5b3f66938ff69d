"""Other methods on a pruned network: their own weights, and those of the unpruned U-Net."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import random_weights
import torch

from sunbench import registry
from sunbench.methods.bk_sdm.student import load_pruned
from sunbench.methods.boostdiff.method import TARGETS as ATTENTION
from sunbench.methods.lcm.lora import TARGETS
from sunbench.methods.sun import SunAdapter, write_adapter
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(4, 4.0)


def sample(method: Any, pipe: Any) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    c, n = torch.randn(2, 24, 32, generator=g), torch.randn(2, 24, 32, generator=g)
    batch = make_batch([ImageId("p0", 0), ImageId("p1", 0)], c, n, (4, 8, 8))
    return method.prepare(pipe, SETTINGS).sample(batch)


def on_student(deep: Any, weights: dict[str, str], network: str = "bk-sdm-base") -> Any:
    own = copy.copy(deep)
    own.unet = load_pruned(Path(weights[network]), deep.unet, network.rpartition("-")[2])
    return own


@pytest.mark.parametrize("solver", ["ddim", "unipc", "dpm++-sde", "adaptive-guidance"])
def test_any_solver_runs_on_the_network(solver: str, deep: Any, deep_weights: dict[str, str]):
    method = registry.method(f"bk-sdm-base+{solver}", weights=deep_weights)
    assert method.name == f"bk-sdm-base+{solver}"
    expected = sample(registry.method(solver), on_student(deep, deep_weights))
    assert torch.equal(sample(method, deep), expected)
    content = method.content(deep, SETTINGS)
    assert content["method"] == method.name
    assert content["network"]["cut"] == "base"


def test_a_lora_of_the_network_fits_as_it_is(
    deep: Any, deep_weights: dict[str, str], tmp_path: Path
):
    student = on_student(deep, deep_weights)
    path = random_weights.lora(student.unet, tmp_path / "l.safetensors", TARGETS, 1)
    weights = {**deep_weights, "lcm-lora": str(path)}
    method = registry.method("bk-sdm-base+lcm-lora", weights=weights)
    assert method.content(deep, SETTINGS)["fit"] == "own"
    expected = sample(registry.method("lcm-lora", weights=weights), student)
    assert torch.equal(sample(method, deep), expected)
    assert method.evaluations(SETTINGS) == 4


@pytest.mark.parametrize("network", ["bk-sdm-base", "bk-sdm-tiny", "a-sdm-m2"])
def test_a_lora_of_the_whole_network_is_carried_over(
    network: str, deep: Any, deep_weights: dict[str, str], tmp_path: Path
):
    path = random_weights.lora(deep.unet, tmp_path / "l.safetensors", ATTENTION, 2)
    weights = {**deep_weights, "lcm-lora": str(path)}
    method: Any = registry.method(f"{network}+lcm-lora", weights=weights)
    assert method.skip(deep, SETTINGS) is None
    assert method.content(deep, SETTINGS)["fit"] == "carried"
    ours = method.prepare(deep, SETTINGS).pipeline.unet.state_dict()
    plain = method.network.network(deep, SETTINGS).state_dict()
    merged = registry.method("lcm-lora", weights=weights).network(deep, SETTINGS).state_dict()  # type: ignore[attr-defined]
    from sunbench.methods.bk_sdm.surgery import CUTS, teacher_name

    changed = 0
    for name, value in ours.items():
        source = teacher_name(name, CUTS[network.rpartition("-")[2]], 4)
        delta = merged[source] - deep.unet.state_dict()[source]
        torch.testing.assert_close(value, plain[name] + delta, atol=1e-6, rtol=1e-5)
        changed += bool(delta.abs().max())
    assert changed
    assert bool(torch.isfinite(sample(method, deep)).all())


@pytest.mark.parametrize("add_pos", [False, True])
def test_sun_of_the_whole_network_is_carried_over(
    add_pos: bool, deep: Any, deep_weights: dict[str, str], tmp_path: Path
):
    adapter = SunAdapter.for_unet(deep.unet, init="random", alpha0=0.5, add_pos=add_pos)
    write_adapter(adapter, tmp_path / "sun.safetensors")
    weights = {**deep_weights, "sun": str(tmp_path / "sun.safetensors")}
    method = registry.method("bk-sdm-base+sun", weights=weights)
    assert method.skip(deep, SETTINGS) is None
    sampler: Any = method.prepare(deep, SETTINGS)
    bound = sampler.pipeline._sun.binding.adapter.state_dict()
    whole = adapter.state_dict()
    assert 0 < len(bound) < len(whole)
    kept = "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k_neg.weight"
    source = kept.replace("attentions.1", "attentions.2")
    assert torch.equal(bound[kept], whole[source])
    first = sample(method, deep)
    assert sampler.sample is not None
    assert torch.equal(sample(method, deep), first)
    assert {type(p).__name__ for p in deep.unet.attn_processors.values()} == {"AttnProcessor2_0"}


def test_what_has_a_network_of_its_own_says_so(
    deep: Any, deep_weights: dict[str, str], tmp_path: Path
):
    path = random_weights.student(deep.unet, tmp_path / "lcm", 0)
    weights = {**deep_weights, "lcm": str(path)}
    reason = registry.method("bk-sdm-base+lcm", weights=weights).skip(deep, SETTINGS)
    assert reason == "bk-sdm-base+lcm: lcm has a network of its own"
    reason = registry.method("bk-sdm-base+a-sdm-m1", weights=deep_weights).skip(deep, SETTINGS)
    assert reason is not None
    assert "layers per stage" in reason


def test_weights_that_fit_neither_say_why(
    pipeline: Any, deep: Any, deep_weights: dict[str, str], tmp_path: Path
):
    path = random_weights.lora(pipeline.unet, tmp_path / "l.safetensors", TARGETS, 1)
    weights = {**deep_weights, "lcm-lora": str(path)}
    reason = registry.method("bk-sdm-base+lcm-lora", weights=weights).skip(deep, SETTINGS)
    assert reason is not None
    assert "LoRA for another architecture" in reason
    assert "\n" not in reason
