"""SUN as a method of the benchmark: one evaluation per step, negative prompts included."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from sunbench.errors import UserError
from sunbench.methods.common.method import TrainedMethod
from sunbench.methods.common.weights import Weights
from sunbench.methods.sun.adapter import bound, check_plain_attention, shapes_of
from sunbench.methods.sun.files import about_adapter, check_adapter
from sunbench.methods.sun.pipelines import (
    OFFICIAL,
    SOLVERS,
    check_pipeline,
    is_loaded,
    load_sun,
)
from sunbench.models.hashes import file_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineSampler, SampleSettings

_REPOSITORY, _, _FILE = OFFICIAL.partition(":")
WEIGHTS = Weights("sun", published=_REPOSITORY, file=_FILE)


@dataclass(frozen=True)
class SunMethod(TrainedMethod):
    """A SUN adapter under one of its solvers; guidance is what the adapter was trained with.

    norm: None takes what the adapter's file says, "sample" where it says nothing.
    """

    norm: str | None = None
    plain_unet: ClassVar[bool] = False

    def describe(self, path: Path) -> dict[str, object]:
        """By hash, form and norm."""
        form, own = about_adapter(path)
        return {"sha256": file_hash(path), "form": form, "norm": self.norm or own}

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        return {**super().content(pipeline, settings), "guidance": "sun"}

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A pipeline that SUN can work in, and an adapter that fits its U-Net."""
        if is_loaded(pipeline):
            raise UserError("the pipeline has a SUN adapter of its own, unload_sun it first")
        check_pipeline(pipeline)
        shapes_of(pipeline.unet)
        if bound(pipeline.unet) is None:
            check_plain_attention(pipeline.unet)
        check_adapter(self.used(pipeline, settings), pipeline.unet)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Load the adapter; the pipeline's own class and scheduler are not touched."""
        self.release(pipeline)
        own = copy.copy(pipeline)
        load_sun(own, self.used(pipeline, settings), norm=self.norm, solver=None)
        own.scheduler = self.solver.build(pipeline.scheduler.config)
        own.set_progress_bar_config(disable=True)
        # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
        return PipelineSampler(own, replace(settings, guidance_scale=2.0))

    def release(self, pipeline: Pipeline) -> None:
        """Take the adapter out of the U-Net."""
        while (binding := bound(pipeline.unet)) is not None:
            binding.release()


def sun() -> SunMethod:
    """SUN with DDIM on trailing timesteps."""
    return SunMethod("sun", SOLVERS["ddim"], WEIGHTS)


def sun_dpm_pp() -> SunMethod:
    """SUN with DPM-Solver++(2M) on trailing timesteps, as in the authors' demo."""
    return SunMethod("sun-dpm++", SOLVERS["dpm++"], WEIGHTS)
