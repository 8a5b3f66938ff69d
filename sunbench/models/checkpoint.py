"""What is inside a checkpoint, read without loading it and without ever opening a pickle."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sunbench.errors import UserError

PICKLES = (".ckpt", ".pt", ".bin", ".pth", ".pkl")
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
)
CROSS_ATTENTION = {"sd1": 768, "sd2": 1024}
FAMILIES = {768: "SD1.x", 1024: "SD2.x", 1280: "SDXL-refiner", 2048: "SDXL"}
MAX_HEADER = 100_000_000
Header = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """The two numbers that tell the families of U-Nets apart."""

    cross_attention_dim: int
    in_channels: int

    def __str__(self) -> str:
        return f"cross_attention_dim {self.cross_attention_dim}, in_channels {self.in_channels}"


def refuse_pickle(name: str) -> None:
    """Raise for a pickled checkpoint, saying how to convert it."""
    if PurePosixPath(name).suffix.lower() in PICKLES:
        raise UserError(
            f"given {name!r}, expected .safetensors: a pickle can run code when opened; convert it "
            "once with: python -c \"import torch, safetensors.torch as s; d = torch.load('IN', "
            "weights_only=True); d = d.get('state_dict', d); s.save_file({k: v.contiguous() for k, "
            "v in d.items() if torch.is_tensor(v)}, 'OUT.safetensors')\""
        )


def _refuse_pickled_repository(where: str, component: str) -> UserError:
    return UserError(
        f"{where}: only pickled weights (.bin) for {component or 'it'}, which can run code when "
        "opened; convert it once with DiffusionPipeline.from_pretrained(ID, use_safetensors=False)"
        ".save_pretrained(FOLDER) on a machine you can lose, and give FOLDER"
    )


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: broken safetensors file ({why}); download or copy it again")


def read_header(path: Path) -> Header:
    """Read tensor shapes by name, and check that the file holds every byte it announces.

    Raises UserError naming the file when it is truncated, a pickle in disguise or not safetensors.
    Format: 8 bytes little-endian header length, JSON header, then the data.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
            length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
            _check_start(path, start, length, size)
            text = start[8:] + file.read(length - 1)
    except OSError as error:
        raise UserError(f"given {str(path)!r}, cannot be read: {error.strerror}") from None
    entries = _parse_header(path, text)
    end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size != end:
        raise _broken(path, f"{size} bytes, its header announces {end}")
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _check_start(path: Path, start: bytes, length: int, size: int) -> None:
    # the first two bytes of a header's length may be a pickle's or a zip's by chance, not its "{"
    if start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        refuse_pickle(f"{path} (a pickle by content).ckpt")
    if not 2 <= length <= MAX_HEADER:
        raise _broken(path, f"{size} bytes, no safetensors header")
    if 8 + length > size:
        raise _broken(path, f"{size} bytes, its header alone needs {8 + length}")


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        for entry in entries.values():
            _, end = (int(offset) for offset in entry["data_offsets"])
            tuple(int(extent) for extent in entry["shape"])
            if end < 0:
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _broken(path, "its header is not a table of tensors") from None
    return dict(entries)


def header_shape(header: Mapping[str, Sequence[int]], where: str) -> Shape:
    """Find the U-Net's shape in a single file, in the original or the diffusers layout."""
    cross = [shape[1] for key, shape in header.items() if key.endswith("attn2.to_k.weight")]
    first = [
        shape[1]
        for key, shape in header.items()
        if key.endswith("diffusion_model.input_blocks.0.0.weight") or key == "conv_in.weight"
    ]
    if cross and first:
        return Shape(max(cross), first[0])
    raise UserError(f"{where}: {_what(header)}; expected a Stable Diffusion checkpoint")


KINDS = (
    (r"lora|hada_", "is a LoRA, which goes under loras"),
    (r"double_blocks|joint_blocks|transformer_blocks\.0\.norm1\.linear", "holds a transformer"),
    (r"emb_params|string_to_param", "is a textual inversion"),
    (r"(first_stage_model|encoder|decoder)\.", "holds a VAE and no U-Net"),
)


def _what(header: Iterable[str]) -> str:
    keys = list(header)
    for pattern, words in KINDS:
        if any(re.search(pattern, key) for key in keys):
            return words
    return "holds no U-Net"


def file_shape(path: Path) -> Shape:
    """Give the shape of the U-Net in a single file."""
    refuse_pickle(str(path))
    return header_shape(read_header(path), str(path))


def folder_config(folder: Path, component: str) -> dict[str, Any]:
    """Read one component's config.json."""
    path = folder / component / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path}: expected a readable JSON component config") from None
    return dict(config)


def folder_shape(folder: Path) -> Shape:
    """Give the shape of a diffusers folder's U-Net."""
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"given folder {str(folder)!r}, expected a diffusers folder with a model_index.json"
        ) from None
    config = folder_config(folder, "unet")
    shape = Shape(_largest(config.get("cross_attention_dim", 1280)), config.get("in_channels", 4))
    if kind not in PIPELINES:
        raise UserError(f"{folder}: given a {kind} ({shape}), expected a {PIPELINES[0]}")
    return shape


def _largest(value: int | Sequence[int]) -> int:
    return value if isinstance(value, int) else max(value)


def architecture_of(shape: Shape, where: str) -> str:
    """Give "sd1", "sd2" or, for any small world, "zoo"; raise for SDXL shapes."""
    for architecture, width in CROSS_ATTENTION.items():
        if shape.cross_attention_dim == width:
            return architecture
    if shape.cross_attention_dim in FAMILIES:
        raise _mismatch(shape, "sd1", where)
    return "zoo"


def check_architecture(shape: Shape, architecture: str, task: str, where: str) -> None:
    """Raise one line when a checkpoint is not of the architecture its card names."""
    channels = (4, 9) if task == "inpaint" else (4,)
    width = CROSS_ATTENTION.get(architecture, shape.cross_attention_dim)
    if shape.cross_attention_dim != width or shape.in_channels not in channels:
        raise _mismatch(shape, architecture, where)


def _mismatch(shape: Shape, architecture: str, where: str) -> UserError:
    width = CROSS_ATTENTION.get(architecture, shape.cross_attention_dim)
    family = FAMILIES.get(shape.cross_attention_dim, "unknown")
    return UserError(
        f"{where}: checkpoint is {family}-shaped ({shape}); "
        f"expected {FAMILIES.get(width, architecture)} ({Shape(width, 4)})"
    )


def pick_weights(
    names: Iterable[str], component: str, variant: str | None, where: str
) -> list[str]:
    """Choose a component's safetensors files: the variant's where there are any, else the plain.

    names: POSIX paths in the folder or repository. component: "unet", ..., or "" for the root.
    Raises UserError when there are only pickles, only other variants, or nothing.
    """
    inside = [name for name in names if str(PurePosixPath(name).parent) == (component or ".")]
    for wanted in (variant, None) if variant else (None,):
        found = [name for name in inside if _weights_pattern(wanted).fullmatch(_base(name))]
        if found:
            return sorted(found)
    tensors = [_base(name) for name in inside if name.endswith(".safetensors")]
    if tensors:
        raise UserError(
            f"{where}: no plain weights for {component or 'it'}, set variant for one of {tensors}"
        )
    if any(PurePosixPath(name).suffix in PICKLES for name in inside):
        raise _refuse_pickled_repository(where, component)
    raise UserError(f"{where}: no weights for {component or 'it'}")


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _weights_pattern(variant: str | None) -> re.Pattern[str]:
    shard = r"(-\d+-of-\d+)?"
    middle = rf"{shard}\.{re.escape(variant)}{shard}" if variant else shard
    return re.compile(rf"(diffusion_pytorch_model|model){middle}\.safetensors")
