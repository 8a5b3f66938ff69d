"""BK-SDM (Kim et al. 2023, arXiv 2305.15798): a pruned U-Net in place of the model's own.

It samples as the model does, under classifier-free guidance and any solver; DPM-Solver++(2M), the
reference's, unless another method is put on it (``bk-sdm-base+ddim``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.student import Layout, check_student, layout_of, load_pruned
from sunbench.methods.common.cards import published_cards
from sunbench.methods.common.deltas import is_difference
from sunbench.methods.common.method import TrainedMethod
from sunbench.methods.common.weights import Weights, metadata, weight_files
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.hashes import files_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings
from sunbench.sampling.pipeline import with_network

#: Of the U-Net in a repository of published weights.
FILE = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class PrunedMethod(TrainedMethod):
    """A pruned or assembled U-Net under a solver and classifier-free guidance.

    license: what the repository of published weights states; "" where there is none.
    """

    cut: str = "base"
    license: str = ""
    cheaper_passes: ClassVar[bool] = True

    @property
    def negative_prompts(self) -> bool:
        """The same as with the model's own U-Net."""
        return True

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A U-Net that can be pruned, and weights of this cut."""
        if settings.task == "controlnet":
            raise UserError("the ControlNet is for the unpruned U-Net, whose skips are more")
        self._layout(pipeline)

    def empty(self, pipeline: Pipeline) -> Any:
        """The network on the meta device; UserError unless the weights fit it."""
        return self._layout(pipeline).empty(pipeline.unet)

    def _layout(self, pipeline: Pipeline) -> Layout:
        return check_student(self.weights.find(pipeline.unet), pipeline.unet, self.cut)

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The student, read anew."""
        return load_pruned(self.weights.find(pipeline.unet), pipeline.unet, self.cut)

    def describe(self, path: Path) -> dict[str, Any]:
        """The weights by hash; differences also by the model that they were trained from."""
        layout = layout_of(path, self.cut)
        about: dict[str, Any] = {"sha256": files_hash(weight_files(path))}
        if is_difference(path):
            about["difference_of"] = metadata(path).get("base", "?")
        if layout.experts:
            about["experts"] = layout.experts
        if layout.attention == "gri":
            about["attention"] = "gri (unspecified in the paper)"
        return about

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, Any]:
        """All that shapes the method's images, for the cell's key."""
        return {**super().content(pipeline, settings), "guidance": "cfg", "cut": self.cut}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why it cannot run: a solver's reasons; no weights, or some that do not fit."""
        reason = PipelineMethod.skip(self, pipeline, settings)
        return reason or super().skip(pipeline, settings)

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations: two per step under guidance, one without."""
        return PipelineMethod.evaluations(self, settings)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the student beside the pipeline's U-Net; UserError where ``skip`` has a reason."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        own = with_network(pipeline, self.network(pipeline, settings), self.solver)
        return PipelineSampler(own, self.guided(settings))


def pruned_method(name: str, cut: str) -> PrunedMethod:
    """A pruned network under DPM-Solver++(2M), its weights by its own name."""
    return PrunedMethod(name, dpm_solver_pp().solver, Weights(name, folders=True), cut=cut)


def published(name: str) -> PrunedMethod:
    """The pruned network of a card."""
    card = published_cards("bk_sdm")[name]
    weights = Weights(
        name,
        published=card["repository"],
        file=FILE,
        revision=card["revision"],
        of=card["of"],
        folders=True,
    )
    solver = dpm_solver_pp().solver
    return PrunedMethod(name, solver, weights, cut=card["cut"], license=card["license"])


def bk_sdm_base() -> PrunedMethod:
    """BK-SDM-Base: one layer of every stage is gone."""
    return published("bk-sdm-base")


def bk_sdm_small() -> PrunedMethod:
    """BK-SDM-Small: Base without the mid block."""
    return published("bk-sdm-small")


def bk_sdm_tiny() -> PrunedMethod:
    """BK-SDM-Tiny: Small without the innermost stage."""
    return published("bk-sdm-tiny")


def small_sd() -> PrunedMethod:
    """Segmind's small-sd, of Base's layout."""
    return published("small-sd")


def tiny_sd() -> PrunedMethod:
    """Segmind's tiny-sd, of Tiny's layout."""
    return published("tiny-sd")
