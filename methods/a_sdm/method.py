"""A-SDM (Zhu et al. 2023, arXiv 2312.15516): pruned outer stages around the model's own inner ones.

M1 to M3 prune one, two and three stages and train them alone; M4 to M6 are the same networks with
everything trained. GRI attention stands for itself: it is unspecified in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.method import PrunedMethod, pruned_method
from sunbench.methods.common.lora import sharing_copy
from sunbench.methods.common.regional import RegionalProcessor, place_regional
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings
from sunbench.sampling.pipeline import with_network


def a_sdm_m1() -> PrunedMethod:
    """Base's outermost stage, trained alone."""
    return pruned_method("a-sdm-m1", "m1")


def a_sdm_m2() -> PrunedMethod:
    """Base's two outermost stages, trained alone."""
    return pruned_method("a-sdm-m2", "m2")


def a_sdm_m3() -> PrunedMethod:
    """Base's three outermost stages, trained alone."""
    return pruned_method("a-sdm-m3", "m3")


def a_sdm_m4() -> PrunedMethod:
    """M1 with everything trained."""
    return pruned_method("a-sdm-m4", "m1")


def a_sdm_m5() -> PrunedMethod:
    """M2 with everything trained."""
    return pruned_method("a-sdm-m5", "m2")


def a_sdm_m6() -> PrunedMethod:
    """M3 with everything trained."""
    return pruned_method("a-sdm-m6", "m3")


@dataclass(frozen=True)
class RegionalMethod(PipelineMethod):
    """The model's own U-Net with GRI attention in its outer stages; nothing is trained."""

    cheaper_passes: ClassVar[bool] = True

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, Any]:
        """All that shapes the method's images, for the cell's key."""
        about = {"attention": "gri", "note": "unspecified in the paper"}
        return {**super().content(pipeline, settings), **about}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why it cannot run: a solver's reasons; no such attention, or processors of its own."""
        if (reason := super().skip(pipeline, settings)) is not None:
            return reason
        try:
            place_regional(sharing_copy(pipeline.unet))
        except UserError as error:
            return f"{self.name}: {error}"
        kinds = {type(p).__name__ for p in pipeline.unet.attn_processors.values()}
        odd = kinds - {"AttnProcessor", "AttnProcessor2_0", RegionalProcessor.__name__}
        return f"{self.name}: given attention {min(odd)}, expected plain" if odd else None

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put a copy that shares all weights beside the pipeline's U-Net."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        unet = place_regional(sharing_copy(pipeline.unet))
        return PipelineSampler(with_network(pipeline, unet, self.solver), self.guided(settings))


def gri_attention() -> RegionalMethod:
    """GRI attention, a reconstruction, under DPM-Solver++(2M)."""
    return RegionalMethod("gri-attention", dpm_solver_pp().solver)
