"""Guidance that is left out where it does nothing: the unconditional pass of some rows dropped.

diffusers' pipelines stack the unconditional rows before the conditional ones, and combine the two
halves of what the U-Net predicts. ``SelectiveUNet`` takes its place there. A rule says which images
still take the unconditional pass; for the others the conditional prediction is returned in both
halves, which classifier-free guidance leaves as it is. Whatever else a pipeline does (tasks,
solvers, negative prompts) stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.sampling import (
    PipelineMethod,
    PipelineSampler,
    SampleBatch,
    SampleSettings,
    SolverSpec,
)
from sunbench.sampling.ahead import HostTimesteps
from sunbench.sampling.pipeline import with_network


class GuidanceRule(Protocol):
    """Which images of a batch are guided at a step."""

    def begin(self, images: int) -> None:
        """A new batch starts."""
        ...

    def needs_unconditional(self, timestep: Tensor, images: int) -> Tensor:
        """Which images (B,) bool take the unconditional pass at this timestep."""
        ...

    def observe(self, unconditional: Tensor, conditional: Tensor, rows: Tensor) -> None:
        """Both predictions (R, C, h, w) of the images ``rows`` (R,) that took both passes."""
        ...


class StandInUNet(nn.Module):
    """What takes a U-Net's place in a pipeline; looks like the network that it holds."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network: Any = network

    @property
    def config(self) -> Any:
        """The network's."""
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The network's."""
        device: torch.device = self.network.device
        return device


class SelectiveUNet(StandInUNet):
    """A U-Net that evaluates the rows which its rule asks for.

    scheduler: whose timesteps it is called with, so that the rule reads them on the processor.
    """

    def __init__(self, network: Any, rule: GuidanceRule, scheduler: Any = None) -> None:
        super().__init__(network)
        self.rule = rule
        self.timesteps = None if scheduler is None else HostTimesteps(scheduler)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any
    ) -> tuple[Tensor]:
        """Predictions of the stacked rows (2B, C, h, w), unconditional ones first."""
        images = len(sample) // 2
        known = timestep if self.timesteps is None else self.timesteps(timestep)
        rows = self.rule.needs_unconditional(known, images).nonzero().flatten()
        taken = torch.cat([rows, torch.arange(images, 2 * images)])
        taken = taken.to(sample.device, non_blocking=True)
        own = taken[: len(rows)]  # ``rows`` on the device
        more = {k: _rows(v, taken, len(sample)) for k, v in more.items() if k != "return_dict"}
        out = self.network(
            sample[taken], timestep, encoder_hidden_states[taken], return_dict=False, **more
        )[0]
        unconditional, conditional = out[: len(rows)], out[len(rows) :]
        if len(rows):
            self.rule.observe(unconditional, conditional[own], rows)
        both = torch.cat([conditional, conditional])
        both[own] = unconditional
        return (both,)


def _rows(value: Any, taken: Tensor, rows: int) -> Any:
    """The taken rows of what has a row for each of the sample (a ControlNet's residuals)."""
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        return value[taken]
    if isinstance(value, list | tuple):
        return type(value)(_rows(v, taken, rows) for v in value)
    return value


class SelectiveSampler(PipelineSampler):
    """Tells the rule when a batch starts; counts the network's own evaluations."""

    def __init__(self, pipeline: Pipeline, settings: SampleSettings, unet: SelectiveUNet) -> None:
        super().__init__(pipeline, settings, counted=unet.network)
        self._unet = unet

    def sample(self, batch: SampleBatch) -> Tensor:
        """Denoise a batch; see ``Sampler.sample``."""
        self._unet.rule.begin(len(batch))
        return super().sample(batch)


def selective(
    pipeline: Pipeline,
    network: Any,
    rule: GuidanceRule,
    solver: SolverSpec,
    settings: SampleSettings,
) -> SelectiveSampler:
    """A sampler of a network behind a rule, on a copy of the pipeline."""
    own = with_network(pipeline, network, solver)
    own.unet = SelectiveUNet(network, rule, own.scheduler)
    return SelectiveSampler(own, settings, own.unet)


@dataclass(frozen=True)
class SelectiveMethod(PipelineMethod):
    """Classifier-free guidance with a rule that leaves unconditional passes out.

    How many are left is counted; ``evaluations`` is the most there can be.
    """

    nfe_varies: ClassVar[bool] = True
    plain_unet: ClassVar[bool] = False

    def rule(self, pipeline: Pipeline) -> GuidanceRule:
        """A rule for one sampler."""
        raise NotImplementedError

    def about(self) -> dict[str, object]:
        """The rule for the cell's key."""
        raise NotImplementedError

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        return {**super().content(pipeline, settings), "rule": self.about()}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why it cannot run: a solver's reasons; without guidance there is nothing to leave out."""
        if not settings.guidance_scale > 1:
            return f"{self.name}: guidance_scale {settings.guidance_scale:g} has no second pass"
        return super().skip(pipeline, settings)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the rule before the U-Net of a copy of the pipeline, which stays as it is."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        return selective(pipeline, pipeline.unet, self.rule(pipeline), self.solver, settings)
