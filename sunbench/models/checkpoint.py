"""What is inside a checkpoint, read without loading it and without ever opening a pickle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sunbench.errors import UserError
from sunbench.store.tensors import PICKLES, Shapes, read_header, refuse_pickle

from .folder import PIPELINES, folder_config, read_index

CROSS_ATTENTION = {"sd1": 768, "sd2": 1024}
FAMILIES = {768: "SD1.x", 1024: "SD2.x", 1280: "SDXL-refiner", 2048: "SDXL"}


@dataclass(frozen=True)
class Shape:
    """The two numbers that tell the families of U-Nets apart."""

    cross_attention_dim: int
    in_channels: int

    def __str__(self) -> str:
        return f"cross_attention_dim {self.cross_attention_dim}, in_channels {self.in_channels}"


def _refuse_pickled_repository(where: str, component: str) -> UserError:
    return UserError(
        f"{where}: only pickled weights (.bin) for {component or 'it'}, which can run code when "
        "opened; convert it once with DiffusionPipeline.from_pretrained(ID, use_safetensors=False)"
        ".save_pretrained(FOLDER) on a machine you can lose, and give FOLDER"
    )


def header_shape(header: Shapes, where: str) -> Shape:
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


def folder_shape(folder: Path) -> Shape:
    """Give the shape of a diffusers folder's U-Net."""
    kind = read_index(folder)["_class_name"]
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
        matching = [name for name in inside if _weights_pattern(wanted).fullmatch(_base(name))]
        if matching:
            return sorted(matching)
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
