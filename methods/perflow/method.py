"""PeRFlow (Yan et al. 2024, arXiv 2405.07510): W of any fine-tune + what training did to the base.

Published as the difference of all weights of Stable Diffusion 1.5's U-Net. Classifier-free guidance
acts on top, with negative prompts. A ``.safetensors`` file of deltas by the U-Net's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.common.lora import sharing_copy
from sunbench.methods.common.method import DistilledMethod, check_plain
from sunbench.methods.common.weights import Weights
from sunbench.methods.perflow.scheduler import PeRFlowScheduler
from sunbench.models.hashes import file_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings, SolverSpec
from sunbench.store.tensors import check_floating, load_weights, read_header, refuse_pickle

#: Their license and the file's name, as in the repository's listing at 04816c7; the authors read it
#: as a U-Net, so its tensors have the U-Net's names.
LICENSE = "CC-BY-NC-4.0"
WEIGHTS = Weights(
    "perflow",
    published="hansyan/perflow-sd15-delta-weights",
    file="diffusion_pytorch_model.v0-1.safetensors",
)
SOLVER = SolverSpec.of(
    PeRFlowScheduler,
    {
        "clip_sample": False,
        "set_alpha_to_one": False,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    },
)


def check_difference(path: Path, unet: nn.Module) -> None:
    """Raise UserError unless the file has a difference for each tensor; reads names and shapes."""
    refuse_pickle(str(path))
    header = read_header(path)
    wanted = {name: tuple(x.shape) for name, x in unet.state_dict().items()}
    wrong = [k for k in header.keys() | wanted.keys() if header.get(k) != wanted.get(k)]
    if wrong:
        raise UserError(
            f"{path}: weight deltas of another architecture, {len(wrong)} differ from the U-Net's"
            f" {len(wanted)} tensors, such as {min(wrong)}"
        )
    check_floating(path, header)


def _summed(unet: Any, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both in float32, in the U-Net's dtype again."""
    own: dict[str, Tensor] = unet.state_dict()
    return {k: (x.float() + delta[k].to(x.device).float()).to(x.dtype) for k, x in own.items()}


@torch.no_grad()
def with_difference(unet: Any, path: Path) -> Any:
    """A copy of a U-Net with the file's differences added; the U-Net stays as it is."""
    check_difference(path, unet)
    own = sharing_copy(unet)
    own.load_state_dict(_summed(unet, load_weights(path)), assign=True)
    return own.eval().requires_grad_(False)


@dataclass(frozen=True)
class PeRFlowMethod(DistilledMethod):
    """PeRFlow under the run's guidance."""

    license: str = LICENSE

    @property
    def negative_prompts(self) -> bool:
        """Guidance acts as on any model."""
        return True

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A step for each window, a plain U-Net that predicts noise, and weights that fit."""
        if settings.asked < PeRFlowScheduler.windows:
            raise UserError(
                f"{settings.asked} steps asked, expected at least {PeRFlowScheduler.windows}:"
                " one for each window"
            )
        check_plain(pipeline.unet)
        kind = pipeline.scheduler.config.prediction_type
        if kind != "epsilon":
            raise UserError(f"the model predicts {kind!r}, expected the noise (epsilon)")
        check_difference(self.used(pipeline, settings), pipeline.unet)

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The U-Net with the differences added."""
        return with_difference(pipeline.unet, self.used(pipeline, settings))

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations: two per step under guidance, one without."""
        return settings.steps * (2 if settings.guidance_scale > 1 else 1)

    def describe(self, path: Path) -> dict[str, object]:
        """By hash."""
        return {"sha256": file_hash(path)}

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        own = super().content(pipeline, settings)
        return {**own, "guidance": "cfg", "windows": PeRFlowScheduler.windows}


def perflow() -> PeRFlowMethod:
    """PeRFlow in the four windows of the published weights."""
    return PeRFlowMethod("perflow", SOLVER, WEIGHTS)
