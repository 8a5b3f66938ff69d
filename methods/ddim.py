"""DDIM (Song, Meng, Ermon 2021, arXiv 2010.02502, Eq. 12 with eta = 0).

At few steps the choice of timesteps matters more than the solver, so there are two methods:
trailing starts at t = 999 (pure noise, as the initial latent is); leading, the default of Stable
Diffusion's own configuration, at t = 751 for 4 steps, and spends its last evaluation at t = 1.
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


def ddim() -> PipelineMethod:
    """DDIM with trailing timesteps."""
    return PipelineMethod(
        "ddim", SolverSpec.of("DDIMScheduler", {**_COMMON, "timestep_spacing": "trailing"})
    )


def ddim_leading() -> PipelineMethod:
    """DDIM with leading timesteps."""
    return PipelineMethod(
        "ddim-leading", SolverSpec.of("DDIMScheduler", {**_COMMON, "timestep_spacing": "leading"})
    )
