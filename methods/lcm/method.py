"""LCM (Luo et al. 2023, arXiv 2310.04378): a student that jumps to the clean latent at every step.

Sampling is Alg. 3, multistep consistency sampling: x0 = c_skip z + c_out x0(z, w, t), then noise to
the next time step, drawn from each image's own generator. Steps lie on the 50 of the distillation,
t = 20 i - 1. The boundary coefficients are diffusers', with sigma_data 0.5 and timestep scaling 10.

There is no official LCM of Stable Diffusion 1.5 itself: the published one was distilled from
Dreamshaper v7, and results say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sunbench.methods.common.students import StudentMethod, check_guidance_input
from sunbench.methods.common.weights import Weights
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings, SolverSpec

#: Time steps of the distillation, the most that sampling can have.
GRID = 50
SOLVER = SolverSpec.of(
    "LCMScheduler",
    {
        "original_inference_steps": GRID,
        "timestep_scaling": 10.0,
        "clip_sample": False,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "set_alpha_to_one": True,  # never used: no step goes below t = 19
    },
)
PUBLISHED = "SimianLuo/LCM_Dreamshaper_v7"
WEIGHTS = Weights(
    "lcm",
    published=PUBLISHED,
    file="unet/config.json",
    of=f"{PUBLISHED}: LCM of Dreamshaper v7, whatever the model it stands in for",
    folders=True,
)


@dataclass(frozen=True)
class LcmMethod(StudentMethod):
    """LCM; a model whose own U-Net takes guidance as an input is run as it is."""

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A positive w, and an available student unless the model is one."""
        check_guidance_input(settings.guidance_scale)
        if not self.complete(pipeline):
            super().check(pipeline, settings)

    def complete(self, pipeline: Pipeline) -> bool:
        """Whether the model's own U-Net is a student."""
        return pipeline.unet.config.time_cond_proj_dim is not None

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The model's own U-Net where it is a student, else the available one."""
        if self.complete(pipeline):
            return pipeline.unet
        return super().network(pipeline, settings)


def lcm() -> LcmMethod:
    """LCM with a full student."""
    return LcmMethod("lcm", SOLVER, WEIGHTS, GRID)
