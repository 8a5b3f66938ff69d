"""Switching between networks at given steps (A-SDM, arXiv 2312.15516, section 2.4).

``switch:bk-sdm-base@10,model@15`` takes ten steps with the pruned network and fifteen with the
model's own. One scheduler goes through all steps, so that a multistep solver's history survives.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.method import PrunedMethod
from sunbench.methods.common.guidance import StandInUNet
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.registry import MODEL, switch_steps
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleBatch, SampleSettings
from sunbench.sampling.counter import UNetCounter
from sunbench.sampling.pipeline import with_network
from sunbench.sampling.stopwatch import ModuleTimer, Stopwatch


class SwitchUNet(StandInUNet):
    """A U-Net whose every evaluation goes to the network of its step.

    networks: by name; plan: (name, steps) in order. The solver evaluates once per step, under
    guidance with both rows stacked. Looks like the model's own U-Net.
    """

    def __init__(
        self, own: Any, networks: dict[str, Any], plan: tuple[tuple[str, int], ...]
    ) -> None:
        super().__init__(own)
        self.networks = nn.ModuleList(networks.values())
        self.names = list(networks)
        self.order = [self.names.index(name) for name, steps in plan for _ in range(steps)]
        self.step = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network of this step predicts."""
        network = self.networks[self.order[self.step]]
        self.step += 1
        return network(*args, **kwargs)


class SwitchSampler(PipelineSampler):
    """Begins the plan anew at every batch; counts and times each network's evaluations.

    nfe_by_network: of an image of the last batch; seconds_by_network: of that batch.
    """

    def __init__(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        super().__init__(pipeline, settings)
        self.nfe_by_network: dict[str, float] = {}
        self.seconds_by_network: dict[str, float] = {}

    @property
    def networks(self) -> dict[str, Any]:
        """The networks by name, for whoever times them."""
        unet = self.pipeline.unet
        return dict(zip(unet.names, unet.networks, strict=True))

    def sample(self, batch: SampleBatch) -> Tensor:
        """Denoise a batch; see ``Sampler.sample``."""
        self.pipeline.unet.step = 0
        stopwatch = Stopwatch(self.pipeline.unet.device)
        with ExitStack() as stack:
            counters, timers = {}, {}
            for name, network in self.networks.items():
                counters[name] = stack.enter_context(UNetCounter(network))
                timers[name] = stack.enter_context(ModuleTimer(network, stopwatch))
            out = super().sample(batch)
        stopwatch.synchronize()
        self.nfe_by_network = {name: c.rows / len(batch) for name, c in counters.items()}
        self.seconds_by_network = {name: t.seconds for name, t in timers.items()}
        return out


@dataclass(frozen=True)
class SwitchMethod(PipelineMethod):
    """Networks that take turns under one solver.

    plan: (name, steps) in order; "model" is the model's own U-Net. parts: the other networks'
    methods by name.
    """

    plan: tuple[tuple[str, int], ...] = ()
    parts: tuple[tuple[str, PrunedMethod], ...] = ()
    training: ClassVar[str] = "once per base"
    fixed_layers: ClassVar[bool] = False
    cheaper_passes: ClassVar[bool] = True

    @property
    def steps(self) -> int:
        """How many steps the plan has."""
        return sum(steps for _, steps in self.plan)

    def trained_weights(self, pipeline: Pipeline) -> tuple[Path, str] | None:
        """The first trained network's; None where only the model's own takes part."""
        return self.parts[0][1].trained_weights(pipeline) if self.parts else None

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key: the plan and every network."""
        networks = {name: part.content(pipeline, settings) for name, part in self.parts}
        plan = [[name, steps] for name, steps in self.plan]
        return {**super().content(pipeline, settings), "plan": plan, "networks": networks}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Another number of steps, or a network that cannot be had."""
        if (reason := super().skip(pipeline, settings)) is not None:
            return reason
        if settings.steps != self.steps:
            words = " + ".join(str(steps) for _, steps in self.plan)
            total = f" = {self.steps}" if len(self.plan) > 1 else ""
            return f"{self.name}: given {words}{total} steps, expected {settings.steps}"
        reasons = (part.skip(pipeline, settings) for _, part in self.parts)
        return next((f"{self.name}: {r}" for r in reasons if r is not None), None)

    @torch.no_grad()
    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> SwitchSampler:
        """Put the networks beside the pipeline's; UserError where ``skip`` has a reason."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        trained = {name: part.network(pipeline, settings) for name, part in self.parts}
        used = dict.fromkeys(name for name, _ in self.plan)
        networks = {name: trained.get(name, pipeline.unet) for name in used}
        unet = SwitchUNet(pipeline.unet, networks, self.plan)
        return SwitchSampler(with_network(pipeline, unet, self.solver), self.guided(settings))


def switch(name: str, plan: str, parts: dict[str, Any]) -> SwitchMethod:
    """``NET@STEPS,NET@STEPS`` under DPM-Solver++(2M). parts: the networks' methods by name."""
    steps = switch_steps(plan)
    named = tuple(
        (part, parts[part]) for part in dict.fromkeys(n for n, _ in steps) if part != MODEL
    )
    return SwitchMethod(name, dpm_solver_pp().solver, plan=steps, parts=named)
