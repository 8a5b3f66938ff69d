"""Whole tensors against plain diffusers; timesteps as the papers' code runs them."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sunbench import registry
from sunbench.sampling import ImageId, SampleSettings, SolverSpec, make_batch

MODEL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
MULTISTEP = {"solver_order": 2, "timestep_spacing": "linspace", "steps_offset": 1}
#: Written down again here, apart from the library.
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {**DDIM, "timestep_spacing": "trailing"}),
    "ddim-leading": ("DDIMScheduler", {**DDIM, "timestep_spacing": "leading"}),
    "dpm++": (
        "DPMSolverMultistepScheduler",
        {**MULTISTEP, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"},
    ),
    "dpm-solver": (
        "DPMSolverMultistepScheduler",
        {**MULTISTEP, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "unipc": (
        "UniPCMultistepScheduler",
        {**MULTISTEP, "solver_type": "bh2", "final_sigmas_type": "zero"},
    ),
    "dpm++-karras": (
        "DPMSolverMultistepScheduler",
        {
            **MULTISTEP,
            "algorithm_type": "dpmsolver++",
            "final_sigmas_type": "zero",
            "use_karras_sigmas": True,
        },
    ),
    "deis": ("DEISMultistepScheduler", {**MULTISTEP, "algorithm_type": "deis"}),
}
#: facts of Stable Diffusion 1.5's schedule at 4 steps.
TIMESTEPS = {
    "ddim": [999, 749, 499, 249],
    "ddim-leading": [751, 501, 251, 1],
    "dpm++": [999, 749, 500, 250],
    "dpm-solver": [999, 749, 500, 250],
    "unipc": [999, 749, 500, 250],
}
IMAGES = [ImageId(f"p{i}", 0) for i in range(3)]


def plain_scheduler(name: str) -> Any:
    kind, settings = PLAIN[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(diffusers, kind)(**MODEL, **settings)


def texts(tiny: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    both = torch.randn(2, len(IMAGES), 24, tiny.WIDTH, generator=g)
    return both[0], both[1]


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("name", PLAIN)
def test_latents_equal_a_plain_pipeline_to_the_bit(
    name: str, steps: int, guidance: float, pipeline: Any, tiny: ModuleType
):
    positive, negative = texts(tiny)
    parts = dict(pipeline.components) | {"scheduler": plain_scheduler(name)}
    plain = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    batch = make_batch(IMAGES, positive, negative, (4, 8, 8))
    expected = plain(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        latents=batch.latents.clone(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    sampler = registry.method(name).prepare(pipeline, SampleSettings(steps, guidance))
    assert torch.equal(sampler.sample(batch), expected)


@pytest.mark.parametrize("name", TIMESTEPS)
def test_the_network_sees_exactly_these_timesteps(name: str, pipeline: Any, tiny: ModuleType):
    seen: list[int] = []
    handle = pipeline.unet.register_forward_pre_hook(lambda m, args: seen.append(int(args[1])))
    try:
        sampler = registry.method(name).prepare(pipeline, SampleSettings(4, 5.0))
        sampler.sample(make_batch(IMAGES, *texts(tiny), (4, 8, 8)))
    finally:
        handle.remove()
    assert seen == TIMESTEPS[name]


def test_reference_runs_25_steps_from_999_to_40(pipeline: Any):
    registry.method("dpm++").prepare(pipeline, SampleSettings(25, 8.0))
    pipeline.scheduler.set_timesteps(25)
    steps = pipeline.scheduler.timesteps.tolist()
    assert (len(steps), steps[0], steps[-1]) == (25, 999, 40)


def settings_of(scheduler: Any) -> dict[str, Any]:
    return {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}


#: A model's scheduler file that says all the wrong things, as community files do.
TRAPS = {
    **MODEL,
    "clip_sample": True,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "thresholding": True,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": True,
    "use_karras_sigmas": True,
    "final_sigmas_type": "sigma_min",
    "algorithm_type": "sde-dpmsolver++",
    "solver_order": 3,
    "lower_order_final": False,
    "euler_at_final": True,
    "skip_prk_steps": False,
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_models_file_cannot_change_the_solver(name: str):
    """``from_config`` lets a model's file decide: clip_sample True damages latents silently."""
    solver = registry.method(name).solver
    built, clean = solver.build(TRAPS), solver.build(MODEL)
    assert settings_of(built) == settings_of(clean) == settings_of(plain_scheduler(name))
    for trap in ("clip_sample", "set_alpha_to_one", "thresholding"):
        assert not built.config.get(trap, False)
    assert built.config.get("use_karras_sigmas", False) is (name == "dpm++-karras")


@pytest.mark.parametrize("name", PLAIN)
def test_betas_and_prediction_come_from_the_model(name: str):
    model = {
        "num_train_timesteps": 500,
        "beta_start": 0.001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
    }
    config = registry.method(name).solver.build(model).config
    assert {k: config[k] for k in model} == model


@pytest.mark.parametrize("name", PLAIN)
def test_trained_betas_are_carried_over(name: str):
    betas = [0.001 * (i + 1) for i in range(20)]
    built = registry.method(name).solver.build({"num_train_timesteps": 20, "trained_betas": betas})
    torch.testing.assert_close(built.betas, torch.tensor(betas))


@pytest.mark.parametrize("name", ["dpm++", "dpm++-karras", "dpm-solver", "unipc"])
def test_content_says_where_the_solver_ends(name: str):
    """diffusers changed the default between versions; a key without it would mix both."""
    solver = registry.method(name).solver.content()
    assert solver["final_sigmas_type"] == ("sigma_min" if name == "dpm-solver" else "zero")


@pytest.mark.parametrize("name", PLAIN)
def test_content_names_every_setting_that_was_passed(name: str):
    method = registry.method(name)
    content = method.solver.content()
    assert content.pop("scheduler") == PLAIN[name][0]
    assert content == dict(method.solver.settings)
    assert content["timestep_spacing"] == PLAIN[name][1]["timestep_spacing"]


def test_contents_of_all_methods_differ():
    contents = [str(registry.method(name).solver.content()) for name in PLAIN]
    assert len(set(contents)) == len(contents)


def test_settings_of_a_spec_have_no_order():
    a, b = SolverSpec.of("X", {"p": 1, "q": 2}), SolverSpec.of("X", {"q": 2, "p": 1})
    assert a == b
    assert hash(a) == hash(b)
