"""DPM-Solver++(2M), the reference's solver, on timesteps that are chosen elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.fitted import FittedMethod
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings, SolverSpec


class ChosenTimesteps(DPMSolverMultistepScheduler):
    """The scheduler on just these timesteps, whatever number of steps it is asked for."""

    chosen: Sequence[int] = ()

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Take the chosen timesteps; UserError unless there are as many as asked."""
        if num_inference_steps != len(self.chosen):
            raise UserError(f"given {len(self.chosen)} timesteps, expected {num_inference_steps}")
        super().set_timesteps(device=device, timesteps=list(self.chosen))


SOLVER = SolverSpec.of(ChosenTimesteps, dict(dpm_solver_pp().solver.settings))


def with_timesteps(sampler: PipelineSampler, timesteps: Sequence[int]) -> PipelineSampler:
    """The sampler on these timesteps, the latest first."""
    sampler.pipeline.scheduler.chosen = timesteps
    return sampler


def whole_timesteps(timesteps: Tensor) -> list[int]:
    """The nearest whole timesteps (N,) to those, falling by at least one."""
    out: list[int] = []
    for k, t in enumerate(timesteps.round().tolist()):
        most = out[-1] - 1 if out else int(t)
        out.append(max(min(int(t), most), len(timesteps) - 1 - k))
    return out


@dataclass(frozen=True)
class ScheduledMethod(FittedMethod):
    """DPM-Solver++(2M) on fitted timesteps."""

    what: ClassVar[str] = "a schedule"

    def check_table(
        self, path: Path, table: Tensor, settings: SampleSettings, pipeline: Pipeline
    ) -> None:
        """Whole timesteps of the training schedule, falling."""
        most = int(pipeline.scheduler.config.num_train_timesteps) - 1
        whole = (
            table.ndim == 1 and len(table) == settings.asked and torch.equal(table, table.round())
        )
        if not (whole and table[-1] >= 0 and table[0] <= most and bool((table.diff() < 0).all())):
            raise UserError(
                f"{path}: its {settings.asked} timesteps are {table.flatten().tolist()[:12]},"
                f" expected whole ones that fall, within {most} to 0"
            )

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Give the pipeline the scheduler on the fitted timesteps."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        chosen = [int(t) for t in self.table(pipeline, settings)]
        return with_timesteps(PipelineMethod.prepare(self, pipeline, settings), chosen)
