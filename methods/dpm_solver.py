"""DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095, Alg. 2).

Both multistep of order 2 with the midpoint rule on the model's own timesteps (linspace, no Karras).
``final_sigmas_type`` is explicit: "zero" is diffusers' default since v0.26, "sigma_min" what the
papers of 2023 ran; the original DPM-Solver can only end at sigma_min.
"""

from __future__ import annotations

from sunbench.sampling import PipelineMethod, SolverSpec

_COMMON = {
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "use_karras_sigmas": False,
    "timestep_spacing": "linspace",
    "steps_offset": 1,
    "thresholding": False,
}


def dpm_solver_pp() -> PipelineMethod:
    """DPM-Solver++(2M), ending at sigma zero."""
    settings = {**_COMMON, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}
    return PipelineMethod("dpm++", SolverSpec.of("DPMSolverMultistepScheduler", settings))


def dpm_solver() -> PipelineMethod:
    """DPM-Solver of order 2, multistep, ending at sigma_min."""
    settings = {**_COMMON, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    return PipelineMethod("dpm-solver", SolverSpec.of("DPMSolverMultistepScheduler", settings))


def dpm_solver_pp_karras() -> PipelineMethod:
    """DPM-Solver++(2M) on Karras' noise levels (arXiv 2206.00364, Eq. 5)."""
    settings = {
        **_COMMON,
        "algorithm_type": "dpmsolver++",
        "final_sigmas_type": "zero",
        "use_karras_sigmas": True,
    }
    return PipelineMethod("dpm++-karras", SolverSpec.of("DPMSolverMultistepScheduler", settings))


def dpm_solver_pp_sde() -> PipelineMethod:
    """SDE-DPM-Solver++(2M): noise at each step, from each image's own generator."""
    settings = {**_COMMON, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"}
    return PipelineMethod("dpm++-sde", SolverSpec.of("DPMSolverMultistepScheduler", settings))
