"""Align Your Steps: diffusers' table, and what lies between its levels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers import AysSchedules

from sunbench import registry
from sunbench.methods.ays import timesteps
from sunbench.sampling import SampleSettings

SD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)


def test_ten_steps_are_the_published_table():
    """Diffusers' copy is pinned: another table would be another method."""
    table = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert table == AysSchedules["StableDiffusionTimesteps"]
    assert timesteps(10, SD) == AysSchedules["StableDiffusionTimesteps"]


def test_five_steps_are_every_second_of_the_table():
    assert timesteps(5, SD) == AysSchedules["StableDiffusionTimesteps"][::2]


def test_levels_are_looked_up_in_the_models_own_schedule():
    """On a schedule of the same levels at half of the timesteps, these are halved."""
    ours, half = timesteps(7, SD), timesteps(7, SD[1::2])
    assert max(abs(a - (2 * b + 1)) for a, b in zip(ours, half, strict=True)) <= 2


def test_any_number_of_steps_falls_within_the_schedule():
    for n in (1, 2, 3, 25, 100, 1000):
        out = timesteps(n, SD)
        assert len(out) == n
        assert out == sorted(set(out), reverse=True)
        assert out[-1] >= 0


def test_the_solver_is_diffusers_on_these_timesteps(pipeline: Any):
    method = registry.method("ays")
    sampler = method.prepare(pipeline, SampleSettings(10, 4.0))
    ours = sampler.pipeline.scheduler
    ours.set_timesteps(10)
    plain = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    plain.set_timesteps(timesteps=AysSchedules["StableDiffusionTimesteps"])
    assert torch.equal(ours.timesteps, plain.timesteps)
    assert torch.equal(ours.sigmas, plain.sigmas)
    assert method.content(pipeline, SampleSettings(10, 4.0))["timesteps"][0] == 999
