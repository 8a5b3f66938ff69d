"""SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams, predictor 2, corrector 2.

Noise is drawn from each image's own generator. The default tau of the released code adds it
between timesteps 200 and 800 alone.
"""

from __future__ import annotations

from sunbench.sampling import PipelineMethod, SolverSpec


def sa_solver() -> PipelineMethod:
    """SA-Solver on data prediction."""
    settings = {
        "predictor_order": 2,
        "corrector_order": 2,
        "algorithm_type": "data_prediction",
        "lower_order_final": True,
        "use_karras_sigmas": False,
        "timestep_spacing": "linspace",
        "steps_offset": 1,
        "thresholding": False,
    }
    return PipelineMethod("sa-solver", SolverSpec.of("SASolverScheduler", settings))
