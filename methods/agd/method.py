"""AGD as a method: one pass per step, guidance scale an input, no negative prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sunbench.errors import UserError
from sunbench.methods.agd.adapter import AgdUNet, empty_agd, load_agd
from sunbench.methods.common.method import DistilledMethod, check_plain
from sunbench.methods.common.students import check_guidance_input
from sunbench.methods.common.weights import Weights
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.hashes import file_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineSampler, SampleSettings
from sunbench.sampling.pipeline import with_network

WEIGHTS = Weights("agd")


@dataclass(frozen=True)
class AgdMethod(DistilledMethod):
    """A solver on a U-Net with AGD's adapters."""

    plain_unet: ClassVar[bool] = False

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """Guidance above 1, a plain U-Net, and an adapter that fits it."""
        check_guidance_input(settings.guidance_scale)
        check_plain(pipeline.unet)
        empty_agd(self.used(pipeline, settings), pipeline.unet)

    def describe(self, path: Path) -> dict[str, object]:
        """By hash."""
        return {"sha256": file_hash(path)}

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key; without the negative prompt."""
        return {**super().content(pipeline, settings), "guidance": "input", "negative": "none"}

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the U-Net with its adapter beside the pipeline's."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        adapter = load_agd(self.used(pipeline, settings), pipeline.unet)
        unet = AgdUNet(pipeline.unet, adapter, settings.guidance_scale)
        plain = SampleSettings(settings.steps, 1.0, settings.task, settings.strength)
        own = with_network(pipeline, unet, self.solver)
        return PipelineSampler(own, plain, counted=unet.network)


def agd() -> AgdMethod:
    """AGD under DPM-Solver++(2M)."""
    return AgdMethod("agd", dpm_solver_pp().solver, WEIGHTS)
