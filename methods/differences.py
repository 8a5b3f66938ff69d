"""Students as differences to the U-Net that they were trained from, in a quarter of the room.

A file holds, for each tensor of the U-Net, what training added: a matrix or kernel as int8 with one
float32 scale for each output channel (``NAME`` and ``NAME.scale``), a vector as float32. What the
U-Net lacks, the w-input, is whole. A student that was written so is the U-Net plus the rounded
differences, bit for bit wherever it is loaded.

On another U-Net of the same architecture the same differences make another student, which was never
trained: they are plugged in as a LoRA is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sunbench.errors import UserError
from sunbench.models.checkpoint import Header, read_header, refuse_pickle
from sunbench.store import write_atomic
from sunbench.store.files import make_folder

#: Metadata that tells a file of differences from whole weights.
FORM = {"form": "difference"}
SCALE = ".scale"
_LEVELS = 127


def is_difference(path: Path) -> bool:
    """Whether weights are a file of differences; UserError for a file that cannot be read."""
    if path.is_dir():
        return False
    refuse_pickle(str(path))
    read_header(path)
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("form") == FORM["form"]


def _packed(name: str, delta: Tensor) -> dict[str, Tensor]:
    """delta (out, ...) float32 as int8 and scales (out,); a vector as it is."""
    if delta.ndim < 2:
        return {name: delta.contiguous()}
    size = delta.flatten(1).abs().amax(1)
    scale = torch.where(size > 0, size / _LEVELS, 1.0)
    steps = (delta / _lifted(scale, delta)).round().clamp(-_LEVELS, _LEVELS)
    return {name: steps.to(torch.int8).contiguous(), name + SCALE: scale}


def _lifted(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (like.ndim - 1))


def _delta(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    value = tensors[name]
    if value.dtype != torch.int8:
        return value.float()
    return value.float() * _lifted(tensors[name + SCALE], value)


@torch.no_grad()
def write_difference(
    path: Path,
    student: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write what a student's tensors have over a U-Net's; what the U-Net lacks is written whole."""
    out: dict[str, Tensor] = {}
    for name, value in student.items():
        own = value.detach().float().cpu()
        if name in base:
            out |= _packed(name, own - base[name].detach().float().cpu())
        else:
            out[name] = own.contiguous()
    make_folder(path.parent)
    write_atomic(path, save(out, {**(about or {}), **FORM, "format": "pt"}))


def difference_header(path: Path) -> Header:
    """Names and shapes of the student's tensors; UserError where a scale is missing."""
    header = read_header(path)
    names = {k: shape for k, shape in header.items() if not k.endswith(SCALE)}
    with safe_open(path, "pt") as file:
        whole = [k for k in names if file.get_slice(k).get_dtype() == "I8"]
    for name in whole:
        if header.get(name + SCALE) != names[name][:1]:
            raise UserError(f"{path}: lacks {name}{SCALE}, one scale for each of {names[name][:1]}")
    return names


@torch.no_grad()
def added(path: Path, unet: Any) -> dict[str, Tensor]:
    """The student's tensors, float32 on the CPU: the U-Net's with the file's differences."""
    tensors, base = load_file(path), unet.state_dict()
    names = [name for name in tensors if not name.endswith(SCALE)]
    return {
        name: _delta(tensors, name) + (base[name].float().cpu() if name in base else 0.0)
        for name in names
    }
