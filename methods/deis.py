"""DEIS (Zhang and Chen 2022, arXiv 2204.13902): exponential integrator, order 2, log-rho fit."""

from __future__ import annotations

from sunbench.sampling import PipelineMethod, SolverSpec


def deis() -> PipelineMethod:
    """DEIS-2 on the model's own timesteps."""
    settings = {
        "solver_order": 2,
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "lower_order_final": True,
        "use_karras_sigmas": False,
        "timestep_spacing": "linspace",
        "steps_offset": 1,
        "thresholding": False,
    }
    return PipelineMethod("deis", SolverSpec.of("DEISMultistepScheduler", settings))
