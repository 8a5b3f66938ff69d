"""Training TCD-LoRA (Zheng et al. 2024, arXiv 2402.19159, Alg. 1): ends anywhere below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sunbench.methods.common.training import Stage, TrainingJob, open_job, start_file
from sunbench.methods.common.trajectory import lora_stage
from sunbench.methods.lcm.settings import LcmLoraTraining
from sunbench.training.request import TrainRequest


@dataclass(frozen=True)
class TcdTraining(LcmLoraTraining):
    """As LCM-LoRA's, whose script the authors' continues."""


def anywhere_below(t: Tensor, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) uniform in 0..t."""
    share = torch.rand(len(t), generator=generator, dtype=torch.float64)
    return (share * (t + 1)).floor().long().clamp_max(t)


def tcd_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """The one stage of the training."""
    return lora_stage(job, anywhere_below, start=start)


def train(request: TrainRequest) -> Path:
    """``sunbench train tcd-lora``: ``out/tcd-lora.safetensors``, for the base's fine-tunes too."""
    begun = start_file(request.start, "tcd-lora")
    return tcd_stage(open_job(TcdTraining, request), begun).run()
