"""Pruned and assembled U-Nets of any with Stable Diffusion's layout, weights mapped to them.

BK-SDM (Kim et al. 2023, arXiv 2305.15798, section 3): a pruned stage keeps the first of two layers
on the way down, and the first and last of three on the way up. Base prunes every stage, Small also
loses the mid block, Tiny also the innermost stage. A-SDM (arXiv 2312.15516) prunes the outer
stages alone: M1 the outermost, M2 two, M3 three, each down stage together with the up stage of the
same resolution, so that the numbers of skips match.

diffusers builds all of them from a configuration: ``layers_per_block`` is a number per stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from sunbench.errors import UserError, unknown

#: Layers of a stage of the full U-Net on the way down; one more on the way up.
FULL = 2
_LAYER = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Cut:
    """What is taken from a U-Net.

    stages: outermost stages that are pruned; None prunes all.
    mid: whether the mid block stays. innermost: whether the innermost stage stays.
    """

    stages: int | None = None
    mid: bool = True
    innermost: bool = True

    def pruned(self, stages: int) -> tuple[bool, ...]:
        """Whether each stage, from the outermost, is pruned."""
        n = stages if self.stages is None else self.stages
        return tuple(i < n for i in range(stages))


CUTS = {
    "base": Cut(),
    "small": Cut(mid=False),
    "tiny": Cut(mid=False, innermost=False),
    "m1": Cut(stages=1),
    "m2": Cut(stages=2),
    "m3": Cut(stages=3),
}


def cut_of(name: str) -> Cut:
    """The cut of that name; UserError with the nearest match for an unknown one."""
    if name not in CUTS:
        raise unknown("cut", name, CUTS)
    return CUTS[name]


def stages_of(config: Mapping[str, Any]) -> int:
    """How many stages a U-Net has; UserError unless it has Stable Diffusion's layout."""
    stages = len(config["block_out_channels"])
    layers = config["layers_per_block"]
    layers = [layers] * stages if isinstance(layers, int) else list(layers)
    if layers != [FULL] * stages:
        raise UserError(f"given a U-Net of {layers} layers per stage, expected {FULL} in each")
    if stages < 3 or config["mid_block_type"] is None:
        raise UserError(
            f"given a U-Net of {stages} stages, mid block {config['mid_block_type']}, expected at"
            " least 3 stages and a mid block"
        )
    return stages


def pruned_config(config: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """Configuration of the pruned U-Net; UserError where the U-Net lacks what is cut.

    Keys that diffusers notes for itself are left out: it would ignore what they name.
    """
    stages = stages_of(config)
    if cut.stages is not None and cut.stages >= stages:
        raise UserError(f"given a cut of {cut.stages} stages, expected fewer than {stages}")
    out = {k: v for k, v in config.items() if not k.startswith("_")}
    out["layers_per_block"] = [1 if pruned else FULL for pruned in cut.pruned(stages)]
    if not cut.mid:
        out["mid_block_type"] = None
    if not cut.innermost:
        for key in ("block_out_channels", "down_block_types", "layers_per_block"):
            out[key] = list(out[key])[:-1]
        out["up_block_types"] = list(out["up_block_types"])[1:]
        for key in ("attention_head_dim", "transformer_layers_per_block", "num_attention_heads"):
            if isinstance(out.get(key), list | tuple):
                out[key] = list(out[key])[:-1]
    if len(set(out["layers_per_block"])) == 1:
        out["layers_per_block"] = out["layers_per_block"][0]
    return out


def teacher_name(name: str, cut: Cut, stages: int) -> str:
    """Where a tensor of the pruned U-Net comes from in one of ``stages`` stages."""
    shift = 0 if cut.innermost else 1
    pruned = cut.pruned(stages)
    if match := _LAYER.fullmatch(name):
        way, block, kind, layer, rest = match.groups()
        i, k = int(block) + (shift if way == "up" else 0), int(layer)
        stage = i if way == "down" else stages - 1 - i
        keep = (0, 2) if way == "up" and pruned[stage] else range(FULL + 1)
        return f"{way}_blocks.{i}.{kind}.{keep[k]}.{rest}"
    if (match := _BLOCK.fullmatch(name)) and match[1] == "up":
        return f"up_blocks.{int(match[2]) + shift}.{match[3]}"
    return name


def mapped(teacher: Mapping[str, Tensor], student: Any, cut: Cut, stages: int) -> dict[str, Tensor]:
    """The teacher's tensors under the student's names; UserError where one does not fit."""
    out = {}
    for name, own in student.state_dict().items():
        source = teacher_name(name, cut, stages)
        if source not in teacher or teacher[source].shape != own.shape:
            shape_text = tuple(teacher[source].shape) if source in teacher else "nothing"
            raise UserError(
                f"cannot map {source} ({shape_text}) to {name}, expected {tuple(own.shape)}"
            )
        out[name] = teacher[source]
    return out


def empty_pruned(unet: Any, cut: Cut) -> Any:
    """The pruned U-Net without weights, on the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(pruned_config(unet.config, cut))


def prune(unet: Any, cut: Cut) -> Any:
    """A pruned U-Net with the weights that it keeps, on the device and in the dtype of ``unet``.

    It owns its tensors: training it leaves ``unet`` as it is.
    """
    student = empty_pruned(unet, cut)
    weights = mapped(unet.state_dict(), student, cut, stages_of(unet.config))
    student.load_state_dict({k: v.clone() for k, v in weights.items()}, assign=True)
    return student


def new_tensors(cut: Cut, stages: int, names: list[str]) -> list[str]:
    """Of a pruned U-Net's tensors, those in its pruned stages, which A-SDM trains first."""
    pruned, shift = cut.pruned(stages), 0 if cut.innermost else 1
    out = []
    for name in names:
        if match := _BLOCK.fullmatch(name):
            i = int(match[2]) + (shift if match[1] == "up" else 0)
            if pruned[i if match[1] == "down" else stages - 1 - i]:
                out.append(name)
    return out
