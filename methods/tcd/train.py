"""Training TCD-LoRA (Zheng et al. 2024, arXiv 2402.19159, Alg. 1): ends anywhere below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sunbench.methods.common.training import Bench, Stage, open_bench, start_file
from sunbench.methods.common.trajectory import lora_stage
from sunbench.methods.lcm.settings import LcmLoraTraining


@dataclass(frozen=True)
class TcdTraining(LcmLoraTraining):
    """As LCM-LoRA's, whose script the authors' continues."""


def anywhere_below(t: Tensor, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) uniform in 0..t."""
    share = torch.rand(len(t), generator=generator, dtype=torch.float64)
    return (share * (t + 1)).floor().long().clamp_max(t)


def tcd_stage(bench: Bench, start: Path | None = None) -> Stage:
    """The one stage of the training."""
    return lora_stage(bench, anywhere_below, start=start)


def train(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train tcd-lora``: ``out/tcd-lora.safetensors``, for the base's fine-tunes too."""
    begun = start_file(start, "tcd-lora")
    return tcd_stage(
        open_bench("tcd-lora", TcdTraining, base, out, config, data, device), begun
    ).run()
