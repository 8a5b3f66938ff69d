"""CFG++ (Chung et al. 2024, arXiv 2406.08070, Alg. 2): DDIM that renoises without guidance.

x_0 comes from e_n + lambda (e_p - e_n) with lambda in 0..1, the noise that is added again is e_n.
In terms of a DDIM step under classifier-free guidance that is a scale which falls along the way:
w = lambda r / (r - r'), where r = sigma / alpha is the noise level before a step and r' after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.guidance import StandInUNet
from sunbench.methods.ddim import ddim
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings
from sunbench.sampling.ahead import HostTimesteps
from sunbench.sampling.pipeline import with_network

#: lambda 0.6 answers to a guidance_scale of 7.5 in the examples of CFGpp-diffusion/CFGpp, and 0..1
#: to scales up to 12.5 in its summary.
LAMBDA_PER_SCALE = 0.6 / 7.5


def strength(guidance_scale: float) -> float:
    """Lambda of a guidance_scale, at most 1: interpolation, as the paper has it."""
    return min(1.0, LAMBDA_PER_SCALE * guidance_scale)


def scales(alphas_cumprod: Tensor, timesteps: list[int], lam: float) -> dict[int, float]:
    """The guidance_scale of DDIM at each timestep that makes its step CFG++'s.

    alphas_cumprod: (T,) of the training schedule; after the last timestep comes timestep 0.
    """
    level = ((1 - alphas_cumprod) / alphas_cumprod).double().sqrt()
    ends = [*timesteps[1:], 0]
    return {
        t: lam * float(level[t] / (level[t] - level[end]))
        for t, end in zip(timesteps, ends, strict=True)
        if t > end
    }


class ScaledUNet(StandInUNet):
    """Both predictions, their difference stretched so that the pipeline's scale acts as another."""

    def __init__(self, network: Any, guidance_scale: float, scheduler: Any) -> None:
        super().__init__(network)
        self.guidance_scale, self.lam = guidance_scale, strength(guidance_scale)
        self.scheduler, self.timesteps = scheduler, HostTimesteps(scheduler)

    def forward(self, sample: Tensor, timestep: Tensor, *args: Any, **more: Any) -> tuple[Tensor]:
        """Predictions of the stacked rows (2B, C, h, w), unconditional ones first."""
        more = {**more, "return_dict": False}
        unconditional, conditional = self.network(sample, timestep, *args, **more)[0].chunk(2)
        steps = self.timesteps.read().tolist()
        table = scales(self.scheduler.alphas_cumprod, steps, self.lam)
        ratio = table.get(int(self.timesteps(timestep)), self.lam) / self.guidance_scale
        return (torch.cat([unconditional, unconditional + ratio * (conditional - unconditional)]),)


@dataclass(frozen=True)
class CfgPlusPlus(PipelineMethod):
    """DDIM under CFG++; lambda follows the guidance_scale."""

    plain_unet: ClassVar[bool] = False

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        rule = {"name": "cfg++", "lambda": strength(settings.guidance_scale)}
        return {**super().content(pipeline, settings), "rule": rule}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why it cannot run: a solver's reasons; without guidance there is nothing to change."""
        if not settings.guidance_scale > 1:
            return f"{self.name}: guidance_scale {settings.guidance_scale:g} has no second pass"
        return super().skip(pipeline, settings)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the rule before the U-Net of a copy of the pipeline, which stays as it is."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        own = with_network(pipeline, pipeline.unet, self.solver)
        own.unet = ScaledUNet(pipeline.unet, settings.guidance_scale, own.scheduler)
        return PipelineSampler(own, settings, counted=own.unet.network)


def cfg_pp() -> CfgPlusPlus:
    """CFG++ with DDIM on trailing timesteps."""
    return CfgPlusPlus("cfg++", ddim().solver)
