"""Files are judged by their header, before anything is loaded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.models.checkpoint import (
    Shape,
    architecture_of,
    check_architecture,
    header_shape,
    pick_weights,
)
from sunbench.store.tensors import refuse_pickle


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin", "pth", "pkl", "CKPT"])
def test_pickles_are_refused_with_the_way_to_convert(suffix: str) -> None:
    with pytest.raises(UserError, match=r"expected .safetensors.*convert.*save_file") as caught:
        refuse_pickle(f"folder/model.{suffix}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_unet_mid_block_attentions_0.lora_down.weight", "is a LoRA"),
        ("double_blocks.0.img_attn.qkv.weight", "transformer"),
        ("emb_params", "textual inversion"),
        ("first_stage_model.encoder.conv_in.weight", "holds a VAE"),
        ("something.else", "holds no U-Net"),
    ],
)
def test_other_files_are_called_by_their_name(key: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        header_shape({key: (4, 4)}, "file")


def test_families_are_told_apart() -> None:
    assert architecture_of(Shape(768, 4), "x") == "sd1"
    assert architecture_of(Shape(1024, 4), "x") == "sd2"
    assert architecture_of(Shape(128, 4), "x") == "zoo"
    with pytest.raises(UserError, match=r"SDXL-shaped \(cross_attention_dim 2048.*expected SD1.x"):
        architecture_of(Shape(2048, 4), "x")


@pytest.mark.parametrize(
    ("channels", "task", "good"),
    [
        (4, "text2image", True),
        (9, "inpaint", True),
        (9, "text2image", False),
        (8, "inpaint", False),
    ],
)
def test_input_channels_follow_the_task(channels: int, task: str, good: bool) -> None:
    if good:
        check_architecture(Shape(768, channels), "sd1", task, "x")
    else:
        with pytest.raises(UserError, match=f"in_channels {channels}"):
            check_architecture(Shape(768, channels), "sd1", task, "x")


STEMS = st.sampled_from(["diffusion_pytorch_model", "model"])


@given(stem=STEMS, noise=st.lists(st.sampled_from(["config.json", "x.bin", "model.onnx", "a.txt"])))
def test_plain_weights_are_found_among_anything(stem: str, noise: list[str]) -> None:
    names = [f"unet/{name}" for name in noise] + [
        f"unet/{stem}.safetensors",
        "vae/model.safetensors",
    ]
    assert pick_weights(names, "unet", None, "x") == [f"unet/{stem}.safetensors"]
    assert pick_weights(names, "unet", "fp16", "x") == [f"unet/{stem}.safetensors"]


@given(count=st.integers(1, 12))
def test_shards_come_together_and_in_order(count: int) -> None:
    names = [f"unet/model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    both = [*reversed(names), "unet/model.fp16.safetensors", "unet/model.safetensors.index.json"]
    assert pick_weights(both, "unet", None, "x") == names
    assert pick_weights(both, "unet", "fp16", "x") == ["unet/model.fp16.safetensors"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["unet/diffusion_pytorch_model.bin"], "only pickled weights"),
        (["unet/model.fp16.safetensors", "unet/model.bin"], "set variant for one of"),
        (["unet/config.json"], "no weights for unet"),
        ([], "no weights for unet"),
    ],
)
def test_missing_weights_say_why(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pick_weights(names, "unet", None, "owner/name")
