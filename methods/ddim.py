"""DDIM (Song, Meng, Ermon 2021, arXiv 2010.02502, Eq. 12 with eta = 0).

At few steps the choice of timesteps matters more than the solver, so there are two methods:
trailing starts at t = 999 (pure noise, as the initial latent is); leading, the default of Stable
Diffusion's own configuration, at t = 751 for 4 steps, and spends its last evaluation at t = 1.

Two more hold their own guidance_scale while the reference keeps the model card's. Without guidance
(scale 1) a step is one evaluation and nothing is trained: the null model that every distilled
method has to beat at equal NFE. A low scale shows how much of a distance is guidance alone.
"""

from __future__ import annotations

from sunbench.sampling import PipelineMethod, SolverSpec

_COMMON = {
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
#: A guidance_scale between none (1) and what model cards ask for.
LOW_GUIDANCE = 1.5


def _solver(spacing: str) -> SolverSpec:
    return SolverSpec.of("DDIMScheduler", {**_COMMON, "timestep_spacing": spacing})


def ddim() -> PipelineMethod:
    """DDIM with trailing timesteps."""
    return PipelineMethod("ddim", _solver("trailing"))


def ddim_leading() -> PipelineMethod:
    """DDIM with leading timesteps."""
    return PipelineMethod("ddim-leading", _solver("leading"))


def ddim_unguided() -> PipelineMethod:
    """DDIM with trailing timesteps and without guidance: one evaluation per step."""
    return PipelineMethod("ddim-unguided", _solver("trailing"), fixed_guidance_scale=1.0)


def ddim_low_guidance(guidance_scale: float = LOW_GUIDANCE) -> PipelineMethod:
    """DDIM with trailing timesteps at a low guidance_scale, whatever the reference's is."""
    return PipelineMethod(
        "ddim-low-guidance", _solver("trailing"), fixed_guidance_scale=guidance_scale
    )
