"""Files are judged by their header, before anything is loaded."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.models.checkpoint import (
    Shape,
    architecture_of,
    check_architecture,
    header_shape,
    pick_weights,
    read_header,
    refuse_pickle,
)

settings.register_profile("files", suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(shapes: dict[str, tuple[int, ...]]) -> bytes:
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)


WHOLE = packed({"a": (3, 4), "b": (5,), "c": ()})
ON_FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_whole_file_gives_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE)
    assert read_header(path) == {"a": (3, 4), "b": (5,), "c": ()}


@ON_FILES
@given(length=st.integers(0, len(WHOLE) - 1))
def test_every_truncation_is_seen(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE[:length])
    assert "broken safetensors file" in one_line(path)


@ON_FILES
@given(more=st.binary(min_size=1, max_size=20))
def test_appended_bytes_are_seen(tmp_path: Path, more: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE + more)
    assert "its header announces" in one_line(path)


@ON_FILES
@given(data=st.binary(max_size=200))
def test_noise_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    one_line(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3)
    ),
    max_leaves=8,
)


@ON_FILES
@given(header=JSON)
def test_any_json_header_is_read_or_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    if header == {} or (isinstance(header, dict) and set(header) == {"__metadata__"}):
        assert read_header(path) == {}
    else:
        one_line(path)


def test_a_pickle_in_disguise_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"state_dict": list(range(99))}))
    assert "weights_only=True" in one_line(path)


@pytest.mark.parametrize("first", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK"])
def test_a_header_as_long_as_a_pickle_begins(tmp_path: Path, first: bytes) -> None:
    """The first bytes of a file are its header's length, and any number can be that."""
    path = tmp_path / "model.safetensors"
    entry = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    length = int.from_bytes(first, "little")
    text = json.dumps(entry).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", length) + text + b"\0" * 8)
    assert path.read_bytes()[:2] == first
    assert read_header(path) == {"w": (2,)}


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
