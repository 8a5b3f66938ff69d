"""Students as differences to the U-Net that they were trained from, in a fraction of the room.

A file holds what training added to each tensor of the U-Net. A matrix or kernel is rounded to a few
levels, an odd number, with a scale for each output channel that leaves the least squared error:
digits from 0 stand for -(levels - 1) / 2 to (levels - 1) / 2 scales, and as many as fit share an
int16 (``NAME`` and ``NAME.scale``). Vectors, and the w-input that the U-Net lacks, are float16. The
student is the U-Net plus these weight deltas, bit-exact wherever it is loaded. A tensor without any
is left out; the metadata say how many are.

On another U-Net of the same architecture the same differences make another student, which was never
trained: they are plugged in as a LoRA is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sunbench.errors import UserError
from sunbench.store import write_atomic
from sunbench.store.files import make_folder
from sunbench.store.tensors import Shapes, check_finite, load_tensors, read_header, refuse_pickle

#: Metadata that tells a file of weight deltas from whole weights.
FORM = {"form": "difference"}
#: Without a number of levels in its settings, a difference is all but exact.
LEVELS = 255
SCALE = ".scale"
#: Metadata: how many of the U-Net's tensors training left as they are.
UNCHANGED = "unchanged"
_WORD = 2**16


def check_levels(levels: int) -> None:
    """Raise UserError unless levels are odd (one of them is zero), from 3 to 255."""
    if levels not in range(3, LEVELS + 1, 2):
        raise UserError(f"given levels = {levels}, expected an odd number from 3 to {LEVELS}")


def _about(path: Path) -> dict[str, str]:
    refuse_pickle(str(path))
    return read_header(path).metadata


def is_difference(path: Path) -> bool:
    """Whether weights are a file of weight deltas; UserError for a file that cannot be read."""
    return not path.is_dir() and _about(path).get("form") == FORM["form"]


def _levels(path: Path) -> int:
    levels = _about(path).get("levels", "")
    if not (levels.isascii() and levels.isdecimal() and len(levels) < 4):
        raise UserError(f"{path}: its levels are {levels!r}, expected a number")
    check_levels(int(levels))
    return int(levels)


# ------------------------------------------------------------------------------ digits in words


def _digits(levels: int) -> int:
    """How many digits of this base fit into 16 bits: 2 of 255, 4 of 15, 5 of 9, 10 of 3."""
    n = 1
    while levels ** (n + 1) <= _WORD:
        n += 1
    return n


def _powers(levels: int) -> Tensor:
    return levels ** torch.arange(_digits(levels))


def _packed(digits: Tensor, levels: int) -> Tensor:
    """Digits (rows, n) in int16 words (rows, ceil(n / digits per word))."""
    powers = _powers(levels)
    short = -digits.shape[1] % len(powers)
    groups = torch.nn.functional.pad(digits, (0, short)).unflatten(1, (-1, len(powers)))
    return ((groups * powers).sum(2) - _WORD // 2).to(torch.int16)


def _unpacked(words: Tensor, levels: int, n: int) -> Tensor:
    """The first n digits of each row of words: (rows, n)."""
    value = words.long() + _WORD // 2
    return (value[:, :, None] // _powers(levels) % levels).flatten(1)[:, :n]


def _rounded(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Digits (rows, n) and float16 scales (rows,), of the least squared error on a grid."""
    half = (levels - 1) // 2
    most = rows.abs().amax(1)
    best = torch.full_like(most, float("inf"))
    digits, scales = torch.zeros_like(rows), torch.zeros_like(most)
    for share in torch.linspace(1.0, 0.15, 18):
        scale = (most * share / half).half().float().clamp_min(2**-24)
        whole = (rows / scale[:, None]).round().clamp(-half, half)
        error = (whole * scale[:, None] - rows).square().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        digits = torch.where(better[:, None], whole, digits)
        scales = torch.where(better, scale, scales)
    return digits.long() + half, scales.half()


# ------------------------------------------------------------------------------ files


@torch.no_grad()
def write_difference(
    path: Path,
    student: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    about: Mapping[str, str] | None = None,
    levels: int = LEVELS,
) -> None:
    """Write what a student's tensors have over a U-Net's; what the U-Net lacks is written whole."""
    check_levels(levels)
    out: dict[str, Tensor] = {}
    unchanged = 0
    for name, value in student.items():
        own = value.detach().float().cpu()
        if name not in base:
            out[name] = own.half()
            continue
        parts = _parts(name, own - base[name].detach().float().cpu(), levels)
        unchanged += not parts
        out |= parts
    make_folder(path.parent)
    counted = {"levels": str(levels), UNCHANGED: str(unchanged)}
    metadata = {**(about or {}), **FORM, **counted, "format": "pt"}
    write_atomic(path, save(out, metadata))


def _parts(name: str, delta: Tensor, levels: int) -> dict[str, Tensor]:
    """A weight delta as a file holds it; nothing where none is left of it."""
    if delta.ndim < 2:
        half = delta.half()
        return {name: half} if half.any() else {}
    digits, scales = _rounded(delta.flatten(1), levels)
    if not (digits != (levels - 1) // 2).any():
        return {}
    return {name: _packed(digits, levels), name + SCALE: scales}


def stored(path: Path, student: Shapes, base: Shapes) -> Shapes:
    """Names and shapes that a file of weight deltas must have for a student of a U-Net."""
    header, per_word = read_header(path), _digits(_levels(path))
    absent = {name for name in student if name in base and name not in header}
    unchanged = absent if header.metadata.get(UNCHANGED) == str(len(absent)) else set()
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in student.items():
        if name in unchanged:
            continue
        if name in base and len(shape) > 1:
            rows, n = shape[0], torch.Size(shape[1:]).numel()
            out |= {name: (rows, -(-n // per_word)), name + SCALE: (rows,)}
        else:
            out[name] = shape
    return out


@torch.no_grad()
def added(path: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's tensors, float32 on the CPU: the base's with the file's differences."""
    tensors, levels = load_tensors(path), _levels(path)
    check_finite(path, tensors)
    out = {
        name: value.float()
        for name, value in tensors.items()
        if name not in base and not name.endswith(SCALE)
    }
    for name, value in base.items():
        own = value.float().cpu()
        out[name] = own + _delta(tensors.get(name), tensors.get(name + SCALE), levels, own.shape)
    return out


def _delta(
    value: Tensor | None, scale: Tensor | None, levels: int, shape: torch.Size
) -> Tensor | float:
    if value is None:
        return 0.0
    if scale is None:
        return value.float()
    digits = _unpacked(value, levels, shape[1:].numel()) - (levels - 1) // 2
    return (digits * scale.float()[:, None]).reshape(shape)
