"""Methods of the benchmark whose network trained weights make or change.

``guidance_scale`` g means one thing to the user: the g of e_n + g (e_p - e_n), which distilled
methods imitate. LCM and Guided-Distill write it as g = 1 + w and take w as an input; the others
hold the guidance that they were trained with.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from sunbench.errors import UserError
from sunbench.methods.common.lora import lora_layers, with_lora
from sunbench.methods.common.weights import Weights, check_values, metadata, weight_files
from sunbench.models.hashes import file_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings, too_many
from sunbench.sampling.pipeline import with_network


def trained_guidance(path: Path) -> float | None:
    """The one guidance_scale that a file's weights imitate; None where it does not say."""
    text = metadata(path).get("guidance_scale")
    if text is None:
        return None
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise UserError(f"{path}: its guidance_scale is {text!r}, expected a number above 0")
    return scale


def check_plain(unet: Any) -> None:
    """Raise UserError for a U-Net that is a student already."""
    if unet.config.time_cond_proj_dim is not None:
        raise UserError("the U-Net takes guidance as an input, expected a plain one")


@dataclass(frozen=True)
class TrainedMethod(PipelineMethod):
    """A solver on a U-Net that trained weights make or change, one evaluation per step.

    grid: the most steps that the distillation had; None leaves the training schedule's number.
    """

    weights: Weights
    grid: int | None = None
    training: ClassVar[str] = "once per base"

    def with_weights(self, explicit: str | None, unet_sha256: str | None) -> Self:
        """The method for one model: with explicit weights, and its U-Net's hash to find others."""
        return replace(
            self, weights=replace(self.weights, explicit=explicit, unet_sha256=unet_sha256)
        )

    def trained_weights(self, pipeline: Pipeline) -> tuple[Path, str] | None:
        """Those that are used on the pipeline; None where the model is complete without."""
        if self.complete(pipeline):
            return None
        return self.weights.find(pipeline.unet), self.weights.method

    def used(self, pipeline: Pipeline, settings: SampleSettings) -> Path:
        """The file or folder that sampling with these settings reads."""
        return self.weights.find(pipeline.unet)

    def complete(self, pipeline: Pipeline) -> bool:
        """Whether the model is itself what the weights would make of it."""
        return False

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """Raise UserError unless the weights are available, fit and can take the settings."""
        raise NotImplementedError

    def describe(self, path: Path) -> dict[str, object]:
        """Weights for the cell's key."""
        raise NotImplementedError

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key: solver and weights; {} without any."""
        own = super().content(pipeline, settings)
        about: dict[str, Any] = {}
        if not self.complete(pipeline):
            with contextlib.suppress(UserError):  # ``skip`` gives it as its reason
                path = self.used(pipeline, settings)
                about = {**self.describe(path), **self.weights.label(path)}
        return {**own, "guidance": "distilled", "weights": about}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """No weights, weights that are broken or do not fit, or a setting they cannot take."""
        reason = super().skip(pipeline, replace(settings, guidance_scale=1.0))
        if reason is not None:
            return reason
        if self.grid is not None and settings.asked > self.grid:
            return too_many(settings, f"the LCM grid has {self.grid}")
        try:
            self.check(pipeline, settings)
            if not self.complete(pipeline):
                for file in weight_files(self.used(pipeline, settings)):
                    check_values(file)
        except UserError as error:
            return f"{self.name}: {error}"
        return None

    def evaluations(self, settings: SampleSettings) -> int:
        """One per step."""
        return settings.steps


@dataclass(frozen=True)
class DistilledMethod(TrainedMethod):
    """A method whose network stands in for the pipeline's own U-Net, which stays as it is."""

    @property
    def negative_prompts(self) -> bool:
        """The student has learned guidance against the empty text alone."""
        return False

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The U-Net to sample with."""
        raise NotImplementedError

    def scale(self, settings: SampleSettings) -> float:
        """The guidance_scale with which diffusers' pipeline is called."""
        return settings.guidance_scale

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the U-Net beside the pipeline's; UserError where ``skip`` has a reason."""
        reason = self.skip(pipeline, settings)
        if reason is not None:
            raise UserError(reason)
        own = with_network(pipeline, self.network(pipeline, settings), self.solver)
        return PipelineSampler(own, replace(settings, guidance_scale=self.scale(settings)))


@dataclass(frozen=True)
class MergedMethod(DistilledMethod):
    """A change merged into the pipeline's own U-Net; it holds the guidance it was trained with.

    extra: the guidance_scale on top of that; 1 is one conditional pass.
    """

    extra: float = 1.0

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A plain U-Net, weights that fit it, and the guidance that they imitate."""
        check_plain(pipeline.unet)
        if self.extra > 1 >= settings.guidance_scale:
            raise UserError(
                f"guidance_scale {settings.guidance_scale:g} asks for one pass without a negative"
                f" prompt, {self.name} always takes two"
            )
        path = self.weights.find(pipeline.unet)
        self.fit(path, pipeline.unet)
        trained = trained_guidance(path)
        if trained is not None and abs(trained - settings.guidance_scale) > 1e-6:
            raise UserError(
                f"guidance_scale {settings.guidance_scale:g} asked, the {self.weights.method}"
                f" weights hold {trained:g}"
            )

    def fit(self, path: Path, unet: Any) -> None:
        """Raise UserError unless the file fits the U-Net; reads names and shapes only."""
        lora_layers(path, unet)

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The U-Net with the change merged in."""
        return with_lora(pipeline.unet, self.weights.find(pipeline.unet))

    def scale(self, settings: SampleSettings) -> float:
        """What stands on top of the trained guidance, whatever the settings ask."""
        return self.extra

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations: two per step with guidance on top, one without."""
        return settings.steps * (2 if self.extra > 1 else 1)

    def describe(self, path: Path) -> dict[str, object]:
        """The weights by hash and trained guidance."""
        return {"sha256": file_hash(path), "guidance_scale": trained_guidance(path)}

    @property
    def negative_prompts(self) -> bool:
        """Under guidance on top alone."""
        return self.extra > 1

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key; negative prompts act only with guidance."""
        own, negative = super().content(pipeline, settings), "cfg" if self.extra > 1 else "none"
        return {**own, "extra_guidance": self.extra, "negative": negative}
