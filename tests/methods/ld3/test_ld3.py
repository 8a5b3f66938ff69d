"""LD3: its solver against diffusers', and timesteps that are known to be best."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sunbench import registry
from sunbench.methods.common.timesteps import whole_timesteps
from sunbench.methods.common.training import TrainingJob
from sunbench.methods.ld3.solver import Timesteps, at, half_log_snr, solve
from sunbench.methods.ld3.train import Pool, run
from sunbench.sampling import ImageId, SampleSettings, make_batch

SD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)
TABLE = half_log_snr(SD)
DATA = 0.5  # standard deviation s of the data


def gaussian(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The ideal noise prediction for data N(0, s^2)."""
    kept = torch.sigmoid(2 * at(TABLE, t[None]))[0]
    return x * (1 - kept).sqrt() / (kept * DATA**2 + 1 - kept)


def error(timesteps: torch.Tensor) -> torch.Tensor:
    """Squared error of the end of the solver to that of the exact trajectory."""
    kept = torch.sigmoid(2 * at(TABLE, timesteps[:1]))[0]
    start = (kept * DATA**2 + 1 - kept).sqrt()
    return (solve(gaussian, start, timesteps, TABLE) - DATA).square()


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_whole_timesteps_are_diffusers_solver(steps: int, pipeline: Any, tiny: ModuleType):
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    batch = make_batch([ImageId("p", 0), ImageId("q", 0)], texts[0], texts[1], (4, 8, 8))
    sampler = registry.method("dpm++").prepare(pipeline, SampleSettings(steps, 4.0))
    expected = sampler.sample(batch)
    times = sampler.pipeline.scheduler.timesteps.float()

    @torch.no_grad()
    def noise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        both = [pipeline.unet(x, t, texts[k]).sample for k in (0, 1)]
        return both[1] + 4.0 * (both[0] - both[1])

    ours = solve(noise, batch.latents, times, TABLE.float())
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-4 * float(expected.abs().max()))


def test_gradients_reach_the_best_timestep_of_two():
    """One timestep to choose; the best is known from trying all."""
    tried = torch.arange(1, 999).double()
    errors = torch.stack([error(torch.tensor([999.0, t]).double()) for t in tried])
    best = float(tried[errors.argmin()])
    times = Timesteps(2, 999).double()
    optimizer = torch.optim.Adam(times.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (error(times()) / errors.min().clamp_min(1e-9)).log1p().backward()
        optimizer.step()
    assert float(times()[1].detach()) == pytest.approx(best, abs=2)
    assert float(error(times()).detach()) < float(error(torch.tensor([999.0, 499.5]).double()))


def test_gradients_are_those_of_differences():
    times = torch.tensor([999.0, 700.3, 401.7, 120.2]).double().requires_grad_()
    error(times).backward()
    assert times.grad is not None
    for k in (1, 2, 3):
        step = torch.zeros(4).double()
        step[k] = 1e-4
        slope = (error(times.detach() + step) - error(times.detach() - step)) / 2e-4
        assert float(times.grad[k]) == pytest.approx(float(slope), rel=1e-4)


def test_timesteps_are_even_at_first_and_stay_in_order():
    times = Timesteps(4, 999)
    assert times().tolist() == pytest.approx([999, 749.25, 499.5, 249.75])
    times.shares.data.copy_(torch.tensor([50.0, -50.0, -50.0, 0.0]))
    assert whole_timesteps(times().detach()) == [999, 2, 1, 0]


def test_a_training_comes_nearer_or_stays(make: Callable[..., TrainingJob]):
    job = make("ld3", steps=(2, 3), images=4, validation=4, loop={"batch": 4, "steps": 6})
    path = run(job)
    tables = load_file(path)
    assert sorted(tables) == ["2", "3"]
    with safe_open(path, "pt") as file:
        about = file.metadata()
    import json

    errors = json.loads(about["validation"])
    choose = Pool(job, 4, "ld3-validation")
    for n, (even, learned) in errors.items():
        assert choose.whole_error(tables[n]) == pytest.approx(min(even, learned), rel=1e-5)
    method = registry.method("ld3", weights={"ld3": str(path)})
    assert method.skip(job.pipeline, SampleSettings(3, 5.0)) is None
    reason = method.skip(job.pipeline, SampleSettings(4, 5.0))
    assert reason == "ld3: a schedule fitted for 2, 3 steps, 4 asked"
