"""UniPC (Zhao et al. 2023, arXiv 2302.04867, Alg. 5): order 2, B2(h), ending at sigma zero."""

from __future__ import annotations

from sunbench.sampling import PipelineMethod, SolverSpec


def unipc() -> PipelineMethod:
    """UniPC-2 with bh2 on data prediction."""
    settings = {
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "use_karras_sigmas": False,
        "timestep_spacing": "linspace",
        "steps_offset": 1,
        "thresholding": False,
    }
    return PipelineMethod("unipc", SolverSpec.of("UniPCMultistepScheduler", settings))
