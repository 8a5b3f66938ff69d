"""Training PCM-LoRA (Wang et al. 2024, arXiv 2405.18407, section 3.2): consistency in phases.

The trajectory is cut at DDIM's trailing timesteps of ``phases`` steps, and a student's step ends
where its phase does; so sampling with that many steps jumps from end to end without noise. The
paper's adversarial loss is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sunbench.methods.common.training import Stage, TrainingJob, open_job, start_file
from sunbench.methods.common.trajectory import lora_stage
from sunbench.methods.lcm.settings import LcmLoraTraining
from sunbench.training.diffusion import Schedule
from sunbench.training.request import TrainRequest
from sunbench.training.settings import within


@dataclass(frozen=True)
class PcmTraining(LcmLoraTraining):
    """As LCM-LoRA's, in phases."""

    phases: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        within("phases", self.phases, 1, 50)


def phase_ends(schedule: Schedule, phases: int) -> Tensor:
    """The lower ends of the phases, rising from 0: (phases,)."""
    return schedule.index(torch.arange(phases) / phases)


def pcm_stage(job: TrainingJob, start: Path | None = None) -> Stage:
    """The one stage of the training."""
    ends = phase_ends(job.schedule, job.settings.phases)

    def lower(t: Tensor) -> Tensor:
        return ends[torch.searchsorted(ends, t) - 1]

    return lora_stage(job, lambda t, generator: lower(t), lower, start)


def train(request: TrainRequest) -> Path:
    """``sunbench train pcm-lora``: ``out/pcm-lora.safetensors``, for the base's fine-tunes too."""
    begun = start_file(request.start, "pcm-lora")
    return pcm_stage(open_job(PcmTraining, request), begun).run()
