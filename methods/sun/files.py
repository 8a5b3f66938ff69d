"""Adapters on disk: safetensors, by attention names or in the layout of the released weights.

The released file is the state dict of ``nn.ModuleList(unet.attn_processors.values())``: a tensor's
prefix is its place among all attentions, self-attentions included, in the order down, up, MID. So a
Stable Diffusion 1 adapter has the prefixes 1, 3, ..., 31; 13, 15 and 17 are up1 and 31 is mid. With
mid before up, 13 to 17 would still fit by shape: names are mapped by order, never by shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from sunbench.errors import UserError, unknown
from sunbench.methods.sun.adapter import SunAdapter, shapes_of
from sunbench.store import write_atomic
from sunbench.store.tensors import check_floating, load_weights, read_header, refuse_pickle

LAYOUTS = ("sunbench", "official")
FORMAT = "sunbench-sun-1"
GROUPS = ("down_blocks", "up_blocks", "mid_block")
LEAF = re.compile(r"(?P<layer>.+)\.(?P<leaf>to_[kv]_(neg|extra_pos)(\.weight|_alpha|_beta))")


def official_order(names: Iterable[str]) -> list[str]:
    """Cross-attention names in the order of the released weights: down, up, mid."""

    def place(name: str) -> tuple[int, ...]:
        return GROUPS.index(name.split(".")[0]), *map(int, re.findall(r"\d+", name))

    return sorted(names, key=place)


def official_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Attention name -> prefix in the released layout: each stands behind a self-attention."""
    return {name: str(2 * i + 1) for i, name in enumerate(official_order(names))}


def _renamed(key: str, layers: Mapping[str, str]) -> str:
    match = LEAF.fullmatch(key)
    return f"{layers.get(match['layer'], match['layer'])}.{match['leaf']}" if match else key


def _named(keys: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Key in the file -> key by attention names, for either layout."""
    layers = {prefix: name for name, prefix in official_prefixes(names).items()}
    return {key: _renamed(key, layers) for key in keys}


def write_adapter(
    adapter: SunAdapter,
    path: str | Path,
    *,
    layout: str = "sunbench",
    dtype: torch.dtype = torch.float32,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter; the norm and the form it was trained with stand in the file's metadata.

    about: more metadata, such as how it was trained.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    layers = official_prefixes(adapter.names) if layout == "official" else {}
    tensors = {
        _renamed(key, layers): value.detach().to("cpu", dtype).contiguous()
        for key, value in adapter.state_dict().items()
    }
    own = {"format": FORMAT, "form": adapter.form, "norm": adapter.norm}
    write_atomic(Path(path), save(tensors, {**(about or {}), **own}))


def read_adapter(path: str | Path, unet: nn.Module, *, norm: str | None = None) -> SunAdapter:
    """Read an adapter of either layout for a U-Net: float32, on the U-Net's device.

    norm: None takes the file's own, and "sample" where it names none.
    Raises UserError in one line for a pickle, for another architecture, for missing, extra or
    integer tensors and for values that are not finite.
    """
    path = Path(path)
    adapter, keys = _empty(path, unet, norm)
    device: Any = next(unet.parameters()).device
    tensors = {keys[key]: value for key, value in load_weights(path).items()}
    ready = {key: value.to(device, torch.float32) for key, value in tensors.items()}
    adapter.load_state_dict(ready, assign=True)
    return adapter


def check_adapter(path: Path, unet: nn.Module) -> None:
    """Raise UserError unless the file covers the U-Net exactly; reads names and shapes only."""
    _empty(path, unet, None)


def about_adapter(path: Path) -> tuple[str, str]:
    """(form, norm) of a file."""
    header = read_header(path)
    form = "add_pos" if any("_extra_pos" in key for key in header) else "paper"
    return form, header.metadata.get("norm", "sample")


def _empty(path: Path, unet: nn.Module, norm: str | None) -> tuple[SunAdapter, dict[str, str]]:
    """The adapter without its weights, and the file's keys by attention names."""
    refuse_pickle(str(path))
    header = read_header(path)
    form, own = about_adapter(path)
    shapes = shapes_of(unet)
    adapter = SunAdapter(shapes, add_pos=form == "add_pos", norm=norm or own)
    keys = _named(header, shapes)
    wanted = {key: tuple(value.shape) for key, value in adapter.state_dict().items()}
    _check_cover(path, {keys[key]: shape for key, shape in header.items()}, wanted)
    check_floating(path, header)
    return adapter, keys


Table = Mapping[str, tuple[int, ...]]


def _layers(table: Table) -> set[str]:
    return {match["layer"] for key in table if (match := LEAF.fullmatch(key))}


def _described(table: Table) -> str:
    widths = sorted({shape[-1] for key, shape in table.items() if key.endswith(".to_k_neg.weight")})
    return f"{len(_layers(table))} cross-attentions of text width {', '.join(map(str, widths))}"


def _check_cover(path: Path, shapes: Table, wanted: Table) -> None:
    if not _layers(shapes):
        raise UserError(f"{path}: holds no SUN adapter (first tensor: {min(shapes, default='')!r})")
    wrong = [key for key in shapes.keys() & wanted.keys() if shapes[key] != wanted[key]]
    if wrong or _layers(shapes) != _layers(wanted):
        raise UserError(
            f"{path}: SUN adapter for another architecture, {_described(shapes)};"
            f" expected {_described(wanted)}{_example(wrong, shapes, wanted)}"
        )
    _check_names(path, "lacks", wanted.keys() - shapes.keys(), len(wanted))
    _check_names(path, "has in excess", shapes.keys() - wanted.keys(), len(wanted))


def _check_names(path: Path, words: str, keys: set[str], expected: int) -> None:
    if keys:
        raise UserError(f"{path}: {words} {len(keys)} of {expected} tensors, such as {min(keys)}")


def _example(wrong: list[str], shapes: Table, wanted: Table) -> str:
    key = min(wrong, default=None)
    return "" if key is None else f" ({key} is {shapes[key]}, expected {wanted[key]})"
