"""Align Your Steps (Sabour et al. 2024, arXiv 2404.14507): Stable Diffusion's published timesteps.

The table has ten noise levels. Other numbers of steps interpolate their logarithms, as the authors
do. Levels are looked up in the model's own noise schedule. The table was optimized for Stable
Diffusion 1: on another model it is a guess (``gits`` and ``ld3`` are fitted). It is diffusers'
copy, the same as in public copies of the authors' how-to page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers.schedulers import AysSchedules
from torch import Tensor, tensor

from sunbench.errors import UserError
from sunbench.methods.common.timesteps import SOLVER, whole_timesteps, with_timesteps
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings

TABLE: tuple[int, ...] = tuple(AysSchedules["StableDiffusionTimesteps"])
#: Stable Diffusion's noise schedule, which the table was made for.
BETAS = (0.00085, 0.012, 1000)


def _log_levels(alphas_cumprod: Any) -> np.ndarray:
    kept = np.asarray(alphas_cumprod, dtype=np.float64)
    return np.log((1 - kept) / kept) / 2


def _stable_diffusion() -> np.ndarray:
    first, last, n = BETAS
    return _log_levels(np.cumprod(1 - np.linspace(first**0.5, last**0.5, n) ** 2))


def timesteps(steps: int, alphas_cumprod: Tensor) -> list[int]:
    """Timesteps of a model's schedule (T,) for a number of steps, the latest first."""
    levels = _stable_diffusion()[[*TABLE, 0]]
    wanted = np.interp(np.linspace(0, len(TABLE), steps + 1), range(len(levels)), levels)[:-1]
    own = _log_levels(alphas_cumprod)
    return whole_timesteps(tensor(np.interp(wanted, own, np.arange(len(own)))))


@dataclass(frozen=True)
class AlignYourSteps(PipelineMethod):
    """DPM-Solver++(2M) on the table's timesteps."""

    def _chosen(self, pipeline: Pipeline, settings: SampleSettings) -> list[int]:
        scheduler = self.solver.build(pipeline.scheduler.config)
        return timesteps(settings.asked, scheduler.alphas_cumprod)

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        own = super().content(pipeline, settings)
        return {**own, "timesteps": self._chosen(pipeline, settings)}

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Give the pipeline the scheduler on the table's timesteps."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        chosen = self._chosen(pipeline, settings)
        return with_timesteps(super().prepare(pipeline, settings), chosen)


def ays() -> AlignYourSteps:
    """Stable Diffusion's table, interpolated to any number of steps."""
    return AlignYourSteps("ays", SOLVER)
