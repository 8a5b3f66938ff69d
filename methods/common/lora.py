"""LoRA on a U-Net (Hu et al. 2021, arXiv 2106.09685, Eq. 3): W + alpha / rank * up @ down.

Files are read in the layouts that are published: kohya's (``lora_unet_..._to_q.lora_down.weight``
with an ``.alpha`` beside it) and PEFT's (``unet....to_q.lora_A.weight``, alpha in tensors or in
diffusers' metadata). Alpha is never assumed: two versions of one training script differ in it by a
factor of 8.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.common.weights import metadata
from sunbench.store import write_atomic
from sunbench.store.tensors import (
    Header,
    check_floating,
    load_tensors,
    load_weights,
    read_header,
    refuse_pickle,
)

DOWN = re.compile(r"(?P<layer>.+)\.(lora_down|lora_A|lora\.down)(\.default)?\.weight")
UPS = {"lora_down": "lora_up", "lora_A": "lora_B", "lora.down": "lora.up"}
PREFIX = re.compile(r"^(lora_unet_|unet\.|base_model\.model\.)")
TEXT = re.compile(r"lora_te\d?_|text_encoder")


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a file: its module in the U-Net, the keys of its factors, alpha / rank."""

    module: str
    down: str
    up: str
    scale: float


def lora_layers(path: Path, unet: nn.Module, *, alpha_is_rank: bool = False) -> list[LoraLayer]:
    """The layers of a LoRA for a U-Net; reads names, shapes and alphas only.

    alpha_is_rank: the scale is 1 where the file has no alpha.

    Raises UserError in one line for a pickle, text-encoder layers, another architecture, missing
    factors and missing alphas.
    """
    refuse_pickle(str(path))
    header = read_header(path)
    names = [key for key in header if DOWN.fullmatch(key)]
    if not names:
        raise UserError(f"{path}: holds no LoRA layers")
    if any(TEXT.match(key) for key in names):
        raise UserError(f"{path}: has layers for the text encoder, expected the U-Net's alone")
    alphas = _alphas(path, header)
    modules = {name: module for name, module in unet.named_modules() if hasattr(module, "weight")}
    flat = {name.replace(".", "_"): name for name in modules}
    if alpha_is_rank:
        ranks = {DOWN.fullmatch(key)["layer"]: float(header[key][0]) for key in names}  # type: ignore[index]
        alphas = {**ranks, **alphas} if "" not in alphas else alphas
    layers = [_layer(path, key, header, flat, alphas) for key in names]
    _check_fit(path, layers, modules, header)
    _check_rest(path, layers, header)
    return layers


def _layer(
    path: Path, key: str, header: Header, flat: Mapping[str, str], alphas: Mapping[str, float]
) -> LoraLayer:
    match = DOWN.fullmatch(key)
    assert match is not None
    stem = match["layer"]
    up = f"{stem}.{key[len(stem) + 1 :].replace(match[2], UPS[match[2]])}"
    if up not in header:
        raise UserError(f"{path}: {key} has no partner {up}")
    if min(len(header[key]), len(header[up])) < 2 or header[key][0] < 1:
        raise UserError(
            f"{path}: {key} is {header[key]}, {up} {header[up]}, expected rank 1 or more"
        )
    bare = PREFIX.sub("", stem)
    name = flat.get(bare.replace(".", "_"), bare)
    alpha = alphas.get(stem, alphas.get(bare, alphas.get("")))
    if alpha is None:
        count = sum(1 for other in header if DOWN.fullmatch(other))
        raise UserError(
            f"{path}: no alpha for {bare} (of {count} LoRA layers), so its scale is unknown;"
            f" add {stem}.alpha, the rank ({header[key][0]}) for a scale of 1"
        )
    return LoraLayer(name, key, up, alpha / header[key][0])


def _alphas(path: Path, header: Header) -> dict[str, float]:
    """Alpha by layer; "" is that of all others."""
    keys = [key for key in header if key.endswith(".alpha")]
    for key in keys:
        if math.prod(header[key]) != 1:
            raise UserError(f"{path}: {key} has shape {header[key]}, expected one number")
    tensors = load_tensors(path) if keys else {}
    own = {key.removesuffix(".alpha"): float(tensors[key]) for key in keys}
    alphas = {**_peft_alphas(path), **own}
    for name, alpha in alphas.items():
        if not math.isfinite(alpha):
            raise UserError(
                f"{path}: alpha of {name or 'its layers'} is {alpha}, expected a number"
            )
    return alphas


def _peft_alphas(path: Path) -> dict[str, float]:
    text = metadata(path).get("lora_adapter_metadata", "{}")
    try:
        about = {key.removeprefix("unet."): value for key, value in json.loads(text).items()}
        pattern = {name: float(x) for name, x in about.get("alpha_pattern", {}).items()}
        common = {"": float(about["lora_alpha"])} if "lora_alpha" in about else {}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path}: its lora_adapter_metadata is not a LoRA's") from None
    return {**common, **pattern}


def _check_fit(
    path: Path, layers: list[LoraLayer], modules: Mapping[str, Any], header: Header
) -> None:
    strays = [layer.module for layer in layers if layer.module not in modules]
    family = _family(header, modules)
    if strays:
        raise UserError(
            f"{path}: LoRA for {family}, the U-Net has no place for {len(strays)} of"
            f" {len(layers)} layers, such as {min(strays)}"
        )
    for layer in layers:
        shape = tuple(modules[layer.module].weight.shape)
        down, up = header[layer.down], header[layer.up]
        fits = math.prod(down[1:]) == math.prod(shape[1:]) and up[0] == shape[0]
        if not fits or math.prod(up[1:]) != down[0]:
            raise UserError(
                f"{path}: LoRA for {family}, {layer.module} is {up} x {down},"
                f" the U-Net's weight {shape}"
            )


#: Families of U-Nets by the width of their text embeddings.
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}


def _family(header: Header, modules: Mapping[str, Any]) -> str:
    """What a LoRA that does not fit is for, by what its cross-attentions read."""
    downs = (k for k in header if DOWN.fullmatch(k) and re.search(r"attn2[._]to_k", k))
    widths = {math.prod(header[k][1:]) for k in downs}
    own = {tuple(m.weight.shape)[1] for n, m in modules.items() if n.endswith("attn2.to_k")}
    known = [WIDTHS[w] for w in widths - own if w in WIDTHS]
    return known[0] if known else "another architecture"


def _check_rest(path: Path, layers: list[LoraLayer], header: Header) -> None:
    """No half of a layer is alone, and nothing else would change the network unnoticed."""
    factors = {name for layer in layers for name in (layer.down, layer.up)}
    check_floating(path, header)
    rest = sorted(n for n in header if n not in factors and not n.endswith(".alpha"))
    if rest:
        raise UserError(
            f"{path}: has {len(rest)} tensors that belong to no LoRA layer, such as {rest[0]}"
        )


def sharing_copy(unet: Any) -> Any:
    """A copy of a network that shares all parameters until one is replaced."""
    return copy.deepcopy(unet, {id(p): p for p in unet.parameters()})


def _delta(up: Tensor, down: Tensor, scale: float, weight: Tensor) -> Tensor:
    product = up.float().flatten(1) @ down.float().flatten(1)
    return scale * product.reshape(weight.shape).to(weight.device)


@torch.no_grad()
def with_lora(unet: Any, path: Path, *, alpha_is_rank: bool = False) -> Any:
    """A copy of a U-Net with a LoRA merged in, in float32; all else is shared with the original."""
    layers = lora_layers(path, unet, alpha_is_rank=alpha_is_rank)
    own = sharing_copy(unet)
    tensors = load_weights(path)
    for layer in layers:
        module = own.get_submodule(layer.module)
        weight = module.weight
        delta = _delta(tensors[layer.up], tensors[layer.down], layer.scale, weight)
        merged = (weight.float() + delta).to(weight.dtype)
        module.weight = nn.Parameter(merged, requires_grad=False)
    return own


def write_lora(
    path: Path,
    layers: Mapping[str, tuple[Tensor, Tensor]],
    alpha: float,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a LoRA in kohya's layout: module name -> (down, up), one alpha for all.

    about: metadata; ``guidance_scale`` where the weights imitate a single one.
    """
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in layers.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = down.detach().cpu().contiguous()
        tensors[f"{stem}.lora_up.weight"] = up.detach().cpu().contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(float(alpha))
    write_atomic(path, save(tensors, dict(about or {})))
