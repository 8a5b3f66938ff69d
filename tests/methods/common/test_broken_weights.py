"""Weight files that are broken are one line naming method and file, whatever the method."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from sunbench import registry
from sunbench.methods.common.deltas import FORM, write_difference
from sunbench.methods.common.students import load_student
from sunbench.methods.common.weights import metadata
from sunbench.sampling import SampleSettings

SETTINGS = SampleSettings(4, 4.0)
STUDENT = "diffusion_pytorch_model.safetensors"
METHODS = ("sun", "lcm", "lcm-lora", "guided-distill", "boostdiff-lora", "boostdiff-bitfit")
Tensors = dict[str, torch.Tensor]


def copied(method: str, weights: dict[str, str], folder: Path) -> tuple[str, Path]:
    """A copy of a method's weights, and the file in it that a sampler reads."""
    source = Path(weights[method])
    target = folder / f"w{source.suffix}"
    if source.is_file():
        shutil.copy(source, target)
        return str(target), target
    shutil.copytree(source, target)
    return str(target), (target / "4" if method == "guided-distill" else target) / STUDENT


def reason(method: str, spec: str | Path, pipeline: Any) -> str:
    """Why a method cannot run with these weights; its key is made all the same."""
    ours = registry.method(method, weights={method: str(spec)})
    json.dumps(ours.content(pipeline, SETTINGS))
    return ours.skip(pipeline, SETTINGS) or ""


def truncated(data: bytes) -> bytes:
    return data[:-3]


def trailing(data: bytes) -> bytes:
    return data + b"\0"


def huge_header(data: bytes) -> bytes:
    return struct.pack("<Q", 2**63 - 1) + data[8:]


def pickled(data: bytes) -> bytes:
    return b"\x80\x02}q\x00." + data


def empty(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("damage", [truncated, trailing, huge_header, pickled, empty])
def test_bytes(
    method: str,
    damage: Callable[[bytes], bytes],
    pipeline: Any,
    weights: dict[str, str],
    tmp_path: Path,
):
    spec, file = copied(method, weights, tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    why = reason(method, spec, pipeline)
    assert why.startswith(f"{method}: ")
    assert str(file) in why
    assert "\n" not in why


def not_a_number(x: torch.Tensor) -> torch.Tensor:
    return torch.full_like(x, float("nan"))


def infinite(x: torch.Tensor) -> torch.Tensor:
    return x.index_fill(0, torch.tensor([0]), float("inf"))


def whole_numbers(x: torch.Tensor) -> torch.Tensor:
    return x.long()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (not_a_number, "not finite"),
        (infinite, "not finite"),
        (whole_numbers, "expected a floating point dtype"),
    ],
)
def test_values(
    method: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    words: str,
    pipeline: Any,
    weights: dict[str, str],
    tmp_path: Path,
):
    spec, file = copied(method, weights, tmp_path)
    tensors = load_file(file)
    name = max(n for n, x in tensors.items() if x.ndim > 0)
    save_file({**tensors, name: change(tensors[name])}, file)
    why = reason(method, spec, pipeline)
    assert why.startswith(f"{method}: {file}: {name} ")
    assert words in why


@pytest.mark.parametrize("method", METHODS)
def test_tensors_that_nothing_reads(
    method: str, pipeline: Any, weights: dict[str, str], tmp_path: Path
):
    spec, file = copied(method, weights, tmp_path)
    save_file({**load_file(file), "zz.stray": torch.zeros(2)}, file)
    why = reason(method, spec, pipeline)
    assert why.startswith(f"{method}: {spec}")
    assert "zz.stray" in why


@pytest.mark.parametrize("method", METHODS)
def test_a_path_that_is_not_there(method: str, pipeline: Any, tmp_path: Path):
    spec = str(tmp_path / "nothing.safetensors")
    assert reason(method, spec, pipeline).startswith(f"{method}: given {method} weights {spec!r}")


def only_down(tensors: Tensors) -> Tensors:
    return {n: x for n, x in tensors.items() if "lora_up" not in n}


def only_one_up(tensors: Tensors) -> Tensors:
    name = next(n for n in tensors if "lora_down" in n)
    return {n: x for n, x in tensors.items() if n != name}


def rank_0(tensors: Tensors) -> Tensors:
    name = next(n for n in tensors if "lora_down" in n)
    up = name.replace("lora_down", "lora_up")
    return {**tensors, name: tensors[name][:0], up: tensors[up][:, :0].contiguous()}


def vector_alpha(tensors: Tensors) -> Tensors:
    name = next(n for n in tensors if n.endswith(".alpha"))
    return {**tensors, name: torch.ones(3)}


def alpha_nan(tensors: Tensors) -> Tensors:
    name = next(n for n in tensors if n.endswith(".alpha"))
    return {**tensors, name: torch.tensor(float("nan"))}


def scalar_down(tensors: Tensors) -> Tensors:
    name = next(n for n in tensors if "lora_down" in n)
    return {**tensors, name: torch.tensor(1.0)}


@pytest.mark.parametrize("method", ["lcm-lora", "boostdiff-lora"])
@pytest.mark.parametrize(
    "change", [only_down, only_one_up, rank_0, vector_alpha, alpha_nan, scalar_down]
)
def test_loras(
    method: str,
    change: Callable[[Tensors], Tensors],
    pipeline: Any,
    weights: dict[str, str],
    tmp_path: Path,
):
    spec, file = copied(method, weights, tmp_path)
    file.write_bytes(save(change(load_file(file))))
    why = reason(method, spec, pipeline)
    assert why.startswith(f"{method}: {file}: ")
    assert "\n" not in why


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "many", "", "³"])
def test_a_guidance_scale_that_is_none(
    text: str, pipeline: Any, weights: dict[str, str], tmp_path: Path
):
    spec, file = copied("boostdiff-lora", weights, tmp_path)
    save_file(load_file(file), file, {"guidance_scale": text})
    assert reason("boostdiff-lora", spec, pipeline) == (
        f"boostdiff-lora: {file}: its guidance_scale is {text!r}, expected a number above 0"
    )


@pytest.mark.parametrize("text", ["²", "", "9" * 5000, "x", "8", "-9"])
def test_levels_that_are_none(text: str, pipeline: Any, weights: dict[str, str], tmp_path: Path):
    student = load_student(Path(weights["lcm"]), pipeline.unet)
    file = tmp_path / "lcm.safetensors"
    write_difference(file, student.state_dict(), pipeline.unet.state_dict())
    assert reason("lcm", file, pipeline) == ""
    save_file(load_file(file), file, {**FORM, "levels": text})
    assert "expected a" in reason("lcm", file, pipeline)


def test_deltas_with_nan_scales(pipeline: Any, weights: dict[str, str], tmp_path: Path):
    student = load_student(Path(weights["lcm"]), pipeline.unet)
    file = tmp_path / "lcm.safetensors"
    write_difference(file, student.state_dict(), pipeline.unet.state_dict())
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith(".scale"))
    tensors[name][0] = float("nan")
    save_file(tensors, file, metadata(file))
    assert f"{file}: {name} holds values that are not finite" in reason("lcm", file, pipeline)


def test_a_norm_that_there_is_not(pipeline: Any, weights: dict[str, str], tmp_path: Path):
    spec, file = copied("sun", weights, tmp_path)
    save_file(load_file(file), file, {"norm": "smaple"})
    assert reason("sun", spec, pipeline) == "sun: unknown norm 'smaple'; did you mean 'sample'?"


def test_students_of_a_folder_that_is_no_number(pipeline: Any, tmp_path: Path):
    (tmp_path / "w" / "²").mkdir(parents=True)
    assert "holds no students" in reason("guided-distill", tmp_path / "w", pipeline)
