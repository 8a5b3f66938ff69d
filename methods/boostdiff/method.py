"""BoostDiff: one guidance scale distilled into a few parameters, so that a step is one pass.

Either a LoRA of rank 8 on the attentions' projections (1,659,904 parameters on SD2.1-base) or all
biases of the U-Net (BitFit, arXiv 2106.10199: 343,684). The student stands for
e_n + g (e_p - e_n) at a single g (Eq. 3), which its file names; it has no negative prompt. The
noise schedule stays, so every solver runs on it.

A BitFit file holds differences: a bias's name in the U-Net -> trained value minus the base's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.common.lora import sharing_copy
from sunbench.methods.common.method import MergedMethod
from sunbench.methods.common.weights import Weights
from sunbench.methods.ddim import ddim
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings
from sunbench.store import write_atomic
from sunbench.store.tensors import check_floating, load_weights, read_header, refuse_pickle

#: Projections of self- and cross-attention.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RANK = 8
LORA, BITFIT = Weights("boostdiff-lora"), Weights("boostdiff-bitfit")


def biases(unet: nn.Module) -> dict[str, nn.Parameter]:
    """Every bias by name."""
    return {name: p for name, p in unet.named_parameters() if name.endswith(".bias")}


def check_biases(path: Path, unet: nn.Module) -> None:
    """Raise UserError unless the file has exactly the U-Net's biases; reads names and shapes."""
    refuse_pickle(str(path))
    header = read_header(path)
    wanted = {name: tuple(p.shape) for name, p in biases(unet).items()}
    if header != wanted:
        wrong = [k for k in header.keys() | wanted.keys() if header.get(k) != wanted.get(k)]
        raise UserError(
            f"{path}: biases of another architecture, {len(wrong)} differ from the U-Net's"
            f" {len(wanted)}, such as {min(wrong)}"
        )
    check_floating(path, header)


@torch.no_grad()
def with_biases(unet: Any, path: Path) -> Any:
    """A copy of a U-Net with the file's differences added; all weights but biases are shared."""
    check_biases(path, unet)
    own = sharing_copy(unet)
    for name, delta in load_weights(path).items():
        module, _, leaf = name.rpartition(".")
        bias = getattr(own.get_submodule(module), leaf)
        value = (bias.float() + delta.to(bias.device).float()).to(bias.dtype)
        setattr(own.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))
    return own


def write_biases(
    path: Path, trained: nn.Module, base: nn.Module, about: Mapping[str, str] | None = None
) -> None:
    """Write what training did to the biases; about: metadata, such as ``guidance_scale``."""
    before = biases(base)
    delta: dict[str, Tensor] = {
        name: (p.detach() - before[name].detach()).cpu().contiguous()
        for name, p in biases(trained).items()
    }
    write_atomic(path, save(delta, dict(about or {})))


@dataclass(frozen=True)
class BitFitMethod(MergedMethod):
    """BoostDiff on biases."""

    def fit(self, path: Path, unet: Any) -> None:
        """Raise UserError unless the file has the U-Net's biases."""
        check_biases(path, unet)

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The U-Net with other biases."""
        return with_biases(pipeline.unet, self.weights.find(pipeline.unet))


def boostdiff_lora() -> MergedMethod:
    """BoostDiff's LoRA under DDIM."""
    return MergedMethod("boostdiff-lora", ddim().solver, LORA)


def boostdiff_lora_dpm_pp() -> MergedMethod:
    """BoostDiff's LoRA under DPM-Solver++(2M)."""
    return MergedMethod("boostdiff-lora-dpm++", dpm_solver_pp().solver, LORA)


def boostdiff_bitfit() -> BitFitMethod:
    """BoostDiff's biases under DDIM."""
    return BitFitMethod("boostdiff-bitfit", ddim().solver, BITFIT)


def boostdiff_bitfit_dpm_pp() -> BitFitMethod:
    """BoostDiff's biases under DPM-Solver++(2M)."""
    return BitFitMethod("boostdiff-bitfit-dpm++", dpm_solver_pp().solver, BITFIT)
