"""Fitting LinearAG: ordinary least squares over guided trajectories of the reference's solver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench.methods.common.fitting import FittingSettings, fit_tables, warm_up
from sunbench.methods.common.guidance import StandInUNet
from sunbench.methods.common.training import TrainingJob, open_job
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.sampling import PipelineSampler, SampleSettings
from sunbench.sampling.pipeline import with_network
from sunbench.training.request import TrainRequest


@dataclass(frozen=True)
class LinearFit(FittingSettings):
    """200 trajectories, as in the paper."""

    images: int = 200


class Recorder(StandInUNet):
    """A U-Net that keeps what it predicts: (2B, C, h, w) a step."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.kept: list[Tensor] = []

    def forward(self, *args: Any, **more: Any) -> tuple[Tensor]:
        """As the network."""
        out: tuple[Tensor] = self.network(*args, **{**more, "return_dict": False})
        self.kept.append(out[0])
        return out


class InnerProducts:
    """Inner products of all predictions of a trajectory: (2N, 2N), e_p of all steps, then e_n."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.total = torch.zeros(2 * steps, 2 * steps, dtype=torch.float64)

    def add(self, kept: list[Tensor]) -> None:
        """Those of a batch: N predictions (2B, ...), the unconditional rows first."""
        unconditional, conditional = torch.stack(kept).flatten(2).chunk(2, dim=1)
        both = torch.cat([conditional, unconditional]).flatten(1).double().cpu()
        self.total += both @ both.T

    def rule(self) -> Tensor:
        """Weights (N, 2, N) that predict e_n of each step; zero for what is not known then."""
        n = self.steps
        out = torch.zeros(n, 2, n)
        for k in range(n):
            known = [*range(k + 1), *range(n, n + k)]
            gram, aim = self.total[known][:, known], self.total[known, n + k]
            weights = torch.linalg.lstsq(gram, aim[:, None], driver="gelsd").solution[:, 0]
            out[k, 0, : k + 1], out[k, 1, :k] = weights[: k + 1].float(), weights[k + 1 :].float()
        return out


def rule_for(job: TrainingJob, steps: int) -> Tensor:
    """The rule (N, 2, N) of the base at a number of steps."""
    settings = SampleSettings(steps, job.guidance.low)
    moments = InnerProducts(steps)
    for batch in warm_up(job, job.settings.images):
        unet = Recorder(job.pipeline.unet)
        own = with_network(job.pipeline, unet, dpm_solver_pp().solver)
        PipelineSampler(own, settings).sample(batch)
        moments.add(unet.kept)
    return moments.rule()


def train(request: TrainRequest) -> Path:
    """``sunbench train linear-ag``: ``out/linear-ag.safetensors``, for fine-tunes too."""
    request.refuse_start("starts from nothing")
    job = open_job(LinearFit, request)
    return fit_tables(job, lambda: {n: rule_for(job, n) for n in job.settings.steps})
