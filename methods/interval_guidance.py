"""Guidance in a limited interval of noise levels (Kynkäänniemi et al. 2024, arXiv 2404.07724).

Guidance harms at high noise and does little at low noise, so it is applied between two noise levels
alone; elsewhere the conditional prediction is used, at half the cost. A level is sigma = sigma_t /
alpha_t of the model's schedule, as the paper's. The interval is a setting: what is best depends on
the model, and the paper tunes it per model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sunbench.methods.common.guidance import SelectiveMethod
from sunbench.methods.ddim import ddim
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings

#: Noise levels between which guidance acts: above the first, up to the second. They are what the
#: paper's implementations for Stable Diffusion XL have as their default.
INTERVAL = (0.28, 5.42)


@dataclass
class IntervalRule:
    """Guided where low < sigma <= high; sigmas: (T,) of the training schedule."""

    sigmas: Tensor
    low: float
    high: float

    def begin(self, images: int) -> None:
        """Nothing to remember between batches."""

    def needs_unconditional(self, timestep: Tensor, images: int) -> Tensor:
        """All images or none."""
        sigma = float(self.sigmas[int(timestep)])
        return torch.full((images,), self.low < sigma <= self.high)

    def observe(self, unconditional: Tensor, conditional: Tensor, rows: Tensor) -> None:
        """The rule does not look at the predictions."""


@dataclass(frozen=True)
class IntervalGuidance(SelectiveMethod):
    """A solver whose guidance acts in an interval of noise levels."""

    interval: tuple[float, float] = INTERVAL

    def rule(self, pipeline: Pipeline) -> IntervalRule:
        """On the noise levels of the pipeline's schedule."""
        alpha_bar = self.solver.build(pipeline.scheduler.config).alphas_cumprod
        return IntervalRule(((1 - alpha_bar) / alpha_bar).sqrt(), *self.interval)

    def expected_nfe(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """One per step, and one more for each timestep inside the interval."""
        rule, scheduler = self.rule(pipeline), self.solver.build(pipeline.scheduler.config)
        scheduler.set_timesteps(settings.asked)
        times = scheduler.timesteps[settings.asked - settings.steps :]
        return sum(1 + int(rule.needs_unconditional(t, 1)) for t in times)

    def about(self) -> dict[str, object]:
        """The interval."""
        return {"name": "interval", "low": self.interval[0], "high": self.interval[1]}


def interval_guidance() -> IntervalGuidance:
    """DPM-Solver++(2M), guided between two noise levels."""
    return IntervalGuidance("interval-guidance", dpm_solver_pp().solver)


def interval_guidance_ddim() -> IntervalGuidance:
    """DDIM with trailing timesteps, guided between two noise levels."""
    return IntervalGuidance("interval-guidance-ddim", ddim().solver)
