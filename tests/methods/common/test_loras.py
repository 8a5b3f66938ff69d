"""LoRAs and biases: counts of the papers, published layouts, and files that do not fit."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from paper_counts import bias_parameters, lora_parameters, targeted
from safetensors.torch import load_file, save_file

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.boostdiff import method as boostdiff
from sunbench.methods.boostdiff.method import with_biases
from sunbench.methods.common.lora import (
    lora_layers,
    with_lora,
    write_lora,
)
from sunbench.methods.lcm import lora as lcm_lora
from sunbench.models.lora import merge_lora
from sunbench.models.sources import shipped_configs
from sunbench.sampling import SampleSettings

SETTINGS = SampleSettings(4, 4.0)


def on_meta(architecture: str) -> Any:
    config = json.loads(
        (shipped_configs(architecture, Path(architecture)) / "unet" / "config.json").read_text()
    )
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def test_parameters_are_those_of_the_papers():
    sd1, sd2 = on_meta("sd1"), on_meta("sd2")
    assert lora_parameters(sd1, lcm_lora.TARGETS, lcm_lora.RANK) == 67_252_224
    assert lora_parameters(sd2, boostdiff.TARGETS, boostdiff.RANK) == 1_659_904
    assert lora_parameters(sd1, boostdiff.TARGETS, boostdiff.RANK) == 1_594_368
    assert bias_parameters(sd1) == bias_parameters(sd2) == 343_684


def test_a_target_without_a_matrix():
    with pytest.raises(UserError, match="GroupNorm, expected Linear or Conv2d"):
        lora_parameters(on_meta("sd1"), ("conv_norm_out",), 4)


def test_merged_is_what_diffusers_and_peft_merge(pipeline: Any, distilled: dict[str, Path]):
    path = distilled["lcm-lora"]
    theirs = copy.copy(pipeline)
    theirs.unet = copy.deepcopy(pipeline.unet)
    merge_lora(theirs, path, 1.0)
    ours, before = with_lora(pipeline.unet, path).state_dict(), pipeline.unet.state_dict()
    expected = theirs.unet.state_dict()
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6)
    changed = {name for name in ours if not torch.equal(ours[name], before[name])}
    targets = {f"{name}.weight" for name, _ in targeted(pipeline.unet, lcm_lora.TARGETS)}
    assert changed == targets


def in_peft_layout(path: Path, unet: Any, target: Path, alpha: float | None) -> Path:
    """The same LoRA as PEFT names it, alpha in diffusers' metadata."""
    tensors, stored = {}, load_file(path)
    for layer in lora_layers(path, unet):
        tensors[f"unet.{layer.module}.lora_A.weight"] = stored[layer.down]
        tensors[f"unet.{layer.module}.lora_B.weight"] = stored[layer.up]
    about = {} if alpha is None else {"unet.lora_alpha": alpha, "unet.r": 2}
    save_file(tensors, target, {"lora_adapter_metadata": json.dumps(about)})
    return target


def test_layouts_agree(pipeline: Any, distilled: dict[str, Path], tmp_path: Path):
    path, unet = distilled["boostdiff-lora"], pipeline.unet
    other = in_peft_layout(path, unet, tmp_path / "peft.safetensors", 1.0)
    ours, theirs = with_lora(unet, path).state_dict(), with_lora(unet, other).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_alpha_is_read_from_the_file(pipeline: Any, distilled: dict[str, Path], tmp_path: Path):
    path, unet = distilled["boostdiff-lora"], pipeline.unet
    double = in_peft_layout(path, unet, tmp_path / "peft.safetensors", 2.0)
    assert {layer.scale for layer in lora_layers(path, unet)} == {0.5}
    assert {layer.scale for layer in lora_layers(double, unet)} == {1.0}


def test_missing_alpha(pipeline: Any, distilled: dict[str, Path], tmp_path: Path):
    path = distilled["boostdiff-lora"]
    peft = in_peft_layout(path, pipeline.unet, tmp_path / "peft.safetensors", None)
    kohya = tmp_path / "kohya.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.endswith("alpha")}, kohya)
    for file in (peft, kohya):
        with pytest.raises(UserError, match=r"no alpha for .*scale is unknown; add .*\.alpha"):
            lora_layers(file, pipeline.unet)


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        (Q, 17, r"another architecture, .*to_q is \(17, 2\) x \(2, 17\), the U-Net's weight"),
        ("input_blocks.1.to_q", 16, "another architecture, the U-Net has no place for 1 of 1"),
    ],
)
def test_lora_for_another_architecture(
    name: str, width: int, message: str, pipeline: Any, tmp_path: Path
):
    path = tmp_path / "other.safetensors"
    write_lora(path, {name: (torch.zeros(2, width), torch.zeros(width, 2))}, 1.0)
    with pytest.raises(UserError, match=message):
        lora_layers(path, pipeline.unet)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["something"], "holds no LoRA layers"),
        (["lora_te_x.lora_down.weight"], "layers for the text encoder"),
        (["lora_unet_x.lora_down.weight"], r"has no partner lora_unet_x\.lora_up\.weight"),
    ],
)
def test_files_that_are_no_lora_for_a_unet(
    keys: list[str], message: str, pipeline: Any, tmp_path: Path
):
    path = tmp_path / "odd.safetensors"
    save_file({key: torch.zeros(2, 2) for key in keys}, path)
    with pytest.raises(UserError, match=message) as caught:
        lora_layers(path, pipeline.unet)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_refused(pipeline: Any, tmp_path: Path):
    with pytest.raises(UserError, match="a pickle can run code"):
        lora_layers(tmp_path / "lora.bin", pipeline.unet)


def test_biases_are_differences(pipeline: Any, distilled: dict[str, Path]):
    path = distilled["boostdiff-bitfit"]
    delta, before = load_file(path), pipeline.unet.state_dict()
    after = with_biases(pipeline.unet, path).state_dict()
    assert sum(x.numel() for x in delta.values()) == bias_parameters(pipeline.unet)
    for name, value in after.items():
        expected = before[name] + delta[name] if name in delta else before[name]
        assert torch.equal(value, expected), name


def test_biases_of_another_architecture(pipeline: Any, tmp_path: Path):
    save_file({"conv_in.bias": torch.zeros(3)}, tmp_path / "b.safetensors")
    weights = {"boostdiff-bitfit": str(tmp_path / "b.safetensors")}
    reason = registry.method("boostdiff-bitfit", weights=weights).skip(pipeline, SETTINGS) or ""
    assert "biases of another architecture" in reason


def test_guidance_that_the_weights_do_not_hold(pipeline: Any, tmp_path: Path):
    path = tmp_path / "lora.safetensors"
    factors = (torch.zeros(2, 16), torch.zeros(16, 2))
    write_lora(path, {Q: factors}, 2.0, {"guidance_scale": "3.0"})
    method = registry.method("boostdiff-lora", weights={"boostdiff-lora": str(path)})
    reason = method.skip(pipeline, SampleSettings(4, 8.0)) or ""
    assert reason == "boostdiff-lora: guidance_scale 8 asked, the boostdiff-lora weights hold 3"
    assert method.skip(pipeline, SampleSettings(4, 3.0)) is None
    assert method.content(pipeline, SETTINGS)["weights"]["guidance_scale"] == 3.0
    write_lora(path, {Q: factors}, 2.0, {"guidance_scale": "some"})
    assert "expected a number" in (method.skip(pipeline, SETTINGS) or "")


def test_one_line(pipeline: Any, weights: dict[str, str]):
    """Guidance on top needs a negative prompt, so it cannot be run without guidance."""
    reason = (
        registry.method("lcm-lora-cfg", weights=weights).skip(pipeline, SampleSettings(4, 1.0))
        or ""
    )
    assert re.fullmatch(
        r"lcm-lora-cfg: guidance_scale 1 asks for one pass .*lcm-lora-cfg always takes two", reason
    )
