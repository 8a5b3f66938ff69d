"""LinearAG (Castillo et al. 2023, arXiv 2312.12487, section 6): a linear rule for e_n.

In the first half of the steps every second unconditional pass, in the second half all of them are
replaced by a linear combination of what was predicted so far: e_n of step k by e_p of the steps 0
to k and e_n of the steps before. One number each, fitted once on a base per number of steps.

Confirmed by a public summary of the paper: the regression, every second step, 200 images, and 25
evaluations in 20 steps. A second one prints the rule as two sums over earlier predictions, without
a constant term, as here (the abstract says "affine").
Unverified: that the second half is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.fitted import FittedMethod
from sunbench.methods.common.guidance import StandInUNet
from sunbench.methods.common.weights import Weights
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineSampler, SampleBatch, SampleSettings
from sunbench.sampling.pipeline import with_network

WEIGHTS = Weights("linear-ag")


def is_guided(step: int, steps: int) -> bool:
    """Whether a step takes the unconditional pass: every second one of the first half."""
    return step % 2 == 0 and step < max(1, steps / 2)


class LinearUNet(StandInUNet):
    """A U-Net whose unconditional half is estimated at some steps; rule: (N, 2, N)."""

    def __init__(self, network: Any, rule: Tensor) -> None:
        super().__init__(network)
        self.rule = rule
        self.seen: tuple[list[Tensor], list[Tensor]] = ([], [])

    def begin(self) -> None:
        """A new batch starts."""
        self.seen = ([], [])

    def _estimate(self, conditional: Tensor) -> Tensor:
        step = len(self.seen[0])
        past = ([*self.seen[0], conditional], self.seen[1])
        out = torch.zeros_like(conditional)
        for weights, predictions in zip(self.rule[step], past, strict=True):
            for weight, eps in zip(weights.tolist(), predictions, strict=False):
                out = out + weight * eps
        return out

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any
    ) -> tuple[Tensor]:
        """Predictions of the stacked rows (2B, C, h, w), unconditional ones first."""
        half = 0 if is_guided(len(self.seen[0]), len(self.rule)) else len(sample) // 2
        more = {k: _from(v, half, len(sample)) for k, v in more.items() if k != "return_dict"}
        out = self.network(
            sample[half:], timestep, encoder_hidden_states[half:], return_dict=False, **more
        )[0]
        if half:
            unconditional, conditional = self._estimate(out), out
        else:
            unconditional, conditional = out.chunk(2)
        self.seen[0].append(conditional)
        self.seen[1].append(unconditional)
        return (torch.cat([unconditional, conditional]),)


def _from(value: Any, first: int, rows: int) -> Any:
    """The rows from a first one on of what has a row for each of the sample."""
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        return value[first:]
    if isinstance(value, list | tuple):
        return type(value)(_from(v, first, rows) for v in value)
    return value


class LinearSampler(PipelineSampler):
    """Tells the U-Net when a batch starts; counts the network's own evaluations."""

    def __init__(self, pipeline: Pipeline, settings: SampleSettings, unet: LinearUNet) -> None:
        super().__init__(pipeline, settings, counted=unet.network)
        self._unet = unet

    def sample(self, batch: SampleBatch) -> Tensor:
        """Denoise a batch; see ``Sampler.sample``."""
        self._unet.begin()
        return super().sample(batch)


@dataclass(frozen=True)
class LinearAG(FittedMethod):
    """DPM-Solver++(2M) under LinearAG."""

    what: ClassVar[str] = "a linear rule"
    plain_unet: ClassVar[bool] = False

    def check_table(
        self, path: Path, table: Tensor, settings: SampleSettings, pipeline: Pipeline
    ) -> None:
        """A weight per step and earlier prediction."""
        n = settings.asked
        if tuple(table.shape) != (n, 2, n):
            raise UserError(
                f"{path}: its rule for {n} steps has shape {tuple(table.shape)},"
                f" expected {(n, 2, n)}"
            )

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """As every fitted method; only whole trajectories under guidance."""
        if not settings.guidance_scale > 1:
            return f"{self.name}: guidance_scale {settings.guidance_scale:g} has no second pass"
        if settings.asked != settings.steps:
            return (
                f"{self.name}: its rule starts at pure noise, strength {settings.strength:g} asked"
            )
        return super().skip(pipeline, settings)

    def evaluations(self, settings: SampleSettings) -> int:
        """Two at the steps that are guided, one at the others."""
        return sum(1 + is_guided(k, settings.steps) for k in range(settings.steps))

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the rule before the U-Net of a copy of the pipeline, which stays as it is."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        unet = LinearUNet(pipeline.unet, self.table(pipeline, settings))
        return LinearSampler(with_network(pipeline, unet, self.solver), settings, unet)


def linear_ag() -> LinearAG:
    """LinearAG on the reference's solver."""
    return LinearAG("linear-ag", dpm_solver_pp().solver, WEIGHTS)
