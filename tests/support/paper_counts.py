"""Parameters and multiplications of the papers' networks, on the meta device: no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sunbench.errors import UserError
from sunbench.methods.boostdiff.method import RANK as BOOSTDIFF_RANK
from sunbench.methods.boostdiff.method import TARGETS as BOOSTDIFF_TARGETS
from sunbench.methods.lcm.lora import RANK, TARGETS
from sunbench.methods.sun import SunAdapter
from sunbench.methods.sun.adapter import shapes_of
from sunbench.models.sources import CONFIGS

#: A LoRA that also covers the time embedding's two layers.
TIME_EMBEDDING = ("time_embedding.linear_1", "time_embedding.linear_2")
#: BK-SDM and A-SDM as diffusers configs.
BK: dict[str, dict[str, Any]] = {
    "Base": {"layers_per_block": 1},
    "Small": {"layers_per_block": 1, "mid_block_type": None},
    "Tiny": {
        "layers_per_block": 1,
        "mid_block_type": None,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    },
}
ASDM = {"M1": (1, 2, 2, 2), "M2": (1, 1, 2, 2), "M3": (1, 1, 1, 2)}
LATENT = 64  # a side, of 512 pixels
TOKENS = 77


@cache
def config(family: str) -> dict[str, Any]:
    """The U-Net's config of a family, ``sd1`` or ``sd2``."""
    text = (CONFIGS / family / "unet" / "config.json").read_text("utf-8")
    settings: dict[str, Any] = json.loads(text)
    return {k: v for k, v in settings.items() if not k.startswith("_")}


def unet(family: str, **changes: Any) -> UNet2DConditionModel:
    """A U-Net without weights; ``changes`` are over the family's config."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config({**config(family), **changes})


def parameters(module: torch.nn.Module) -> int:
    """How many it has."""
    return sum(p.numel() for p in module.parameters())


def targeted(net: nn.Module, targets: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose names are or end in one of the targets, as PEFT matches them."""
    for name, module in net.named_modules():
        if any(name == target or name.endswith(f".{target}") for target in targets):
            yield name, module


def lora_parameters(net: nn.Module, targets: Sequence[str], rank: int) -> int:
    """Parameters of a LoRA on the targets: rank (in + out), times the kernel on the way in."""
    return sum(_low_rank(module, rank) for _, module in targeted(net, targets))


def _low_rank(module: nn.Module, rank: int) -> int:
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise UserError(f"given a LoRA target {type(module).__name__}, expected Linear or Conv2d")
    return rank * (module.weight[0].numel() + len(module.weight))


def bias_parameters(net: nn.Module) -> int:
    """Parameters that are biases: of linear maps, convolutions and norms."""
    return sum(p.numel() for name, p in net.named_parameters() if name.endswith(".bias"))


@cache
def base(family: str) -> UNet2DConditionModel:
    """The family's own U-Net."""
    return unet(family)


def sun_layers() -> dict[str, tuple[int, int]]:
    """(channels, text width) of the 16 cross-attentions of SD1.5."""
    return shapes_of(base("sd1"))


def sun(*, add_pos: bool = False) -> int:
    """Parameters of a SUN adapter on SD1.5."""
    with torch.device("meta"):
        return SunAdapter(sun_layers(), add_pos=add_pos).parameter_count


def lcm_lora(*, time_embedding: bool = False) -> int:
    """Parameters of LCM-LoRA, rank 64, on SD1.5."""
    return lora_parameters(base("sd1"), TARGETS + TIME_EMBEDDING * time_embedding, RANK)


def boostdiff_lora(family: str = "sd2") -> int:
    """Parameters of BoostDiff's LoRA of rank 8."""
    return lora_parameters(base(family), BOOSTDIFF_TARGETS, BOOSTDIFF_RANK)


def biases(family: str = "sd2") -> int:
    """All biases of a U-Net."""
    return bias_parameters(base(family))


def linear_biases(family: str = "sd2") -> int:
    """Biases of linear layers alone."""
    linear = (m for m in base(family).modules() if isinstance(m, torch.nn.Linear))
    return sum(m.bias.numel() for m in linear if m.bias is not None)


def macs(**changes: Any) -> float:
    """Multiplications of one evaluation of a changed SD1.5 at 64x64 latents."""
    network = unet("sd1", **changes)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 4, LATENT, LATENT), torch.tensor(1), torch.empty(1, TOKENS, 768))
    return counter.get_total_flops() / 2


# ------------------------------------------------------------------------------ 18.5M


def subsets(extra: int) -> set[int]:
    """Sizes of SUN on every choice of layers: K' and V', and ``extra`` numbers a channel beside."""
    channels = [c for c, _ in sun_layers().values()]
    width = next(w for _, w in sun_layers().values())
    kinds = sorted(set(channels))
    counts = product(*(range(channels.count(k) + 1) for k in kinds))
    per_channel = 2 * width + extra
    return {sum(n * k for n, k in zip(ns, kinds, strict=True)) * per_channel for ns in counts}


def nearest_subset(target: int) -> tuple[int, int]:
    """The nearest sizes below and above, over layers with and without alpha and beta."""
    sizes = sorted(subsets(0) | subsets(2))
    return max(s for s in sizes if s <= target), min(s for s in sizes if s >= target)


# ------------------------------------------------------------------------------ multiplications


def sun_macs() -> int:
    """Multiplications that one branch of SUN adds to an evaluation at 512 pixels.

    K' and V' of 77 tokens, and attention of every latent position over them.
    """
    projections = sum(2 * TOKENS * width * c for c, width in sun_layers().values())
    return projections + sum(2 * TOKENS * _positions(n) * c for n, (c, _) in sun_layers().items())


def _positions(name: str) -> int:
    """Latent positions at a cross-attention, by its block's place."""
    if name.startswith("mid"):
        return (LATENT // 8) ** 2
    kind, number = name.split(".")[:2]
    depth = int(number) if kind == "down_blocks" else 3 - int(number)
    return (LATENT // 2**depth) ** 2
