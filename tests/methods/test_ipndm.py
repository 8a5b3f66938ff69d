"""iPNDM: weights by integrating the interpolation, and steps whose result is known."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial

from sunbench import registry
from sunbench.methods.ipndm import WEIGHTS
from sunbench.sampling import ImageId, SampleSettings, make_batch

MODEL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def scheduler(steps: int, **changes: Any) -> Any:
    built = registry.method("ipndm").solver.build({**MODEL, **changes})
    built.set_timesteps(steps)
    return built


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_integrate_the_interpolation(order: int):
    """Over the step ahead, of the polynomial through the values at 0, -1, -2, ..."""
    nodes = -np.arange(order, dtype=float)
    for k, weight in enumerate(WEIGHTS[order - 1]):
        others = np.delete(nodes, k)
        basis = polynomial.polyfromroots(others) / np.prod(nodes[k] - others)
        whole = polynomial.polyval(1.0, polynomial.polyint(basis))
        assert weight == pytest.approx(whole, abs=1e-12)


def test_timesteps_are_trailing():
    assert scheduler(4).timesteps.tolist() == [999, 749, 499, 249]


def test_constant_noise_is_carried_exactly():
    """Of noise that never changes x_t = alpha x_0 + sigma noise holds all the way."""
    solver = scheduler(7)
    noise, x_0 = torch.tensor(0.3).double(), torch.tensor(-1.2).double()
    kept = solver.alphas_cumprod.double()
    first = kept[int(solver.timesteps[0])]
    x = first.sqrt() * x_0 + (1 - first).sqrt() * noise
    for t in solver.timesteps:
        x = solver.step(noise, t, x).prev_sample
    end = kept[0]
    assert float(x) == pytest.approx(float(end.sqrt() * x_0 + (1 - end).sqrt() * noise), abs=1e-5)


def test_noise_of_a_step_is_that_of_the_last_four():
    solver = scheduler(6)
    said = [torch.tensor(float(k * k)) for k in range(6)]
    kept = solver.alphas_cumprod
    times = [int(t) for t in solver.timesteps]
    for k, t in enumerate(times[:5]):
        now, then = kept[t], kept[times[k + 1]]
        x = solver.step(said[k], t, torch.tensor(0.0)).prev_sample
        of_noise = (1 - then).sqrt() - (then / now).sqrt() * (1 - now).sqrt()
        weights = WEIGHTS[min(k, 3)]
        eps = sum(w * e for w, e in zip(weights, said[k::-1], strict=False))
        assert float(x) == pytest.approx(float(of_noise * eps), rel=1e-5)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_every_prediction_type_takes_the_same_way(kind: str):
    alike = scheduler(5)
    other = scheduler(5, prediction_type=kind)
    x = y = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    for t in alike.timesteps:
        kept = alike.alphas_cumprod[int(t)].double()
        eps = torch.sin(x)
        x_0 = (y - (1 - kept).sqrt() * torch.sin(y)) / kept.sqrt()
        v = kept.sqrt() * torch.sin(y) - (1 - kept).sqrt() * x_0
        x = alike.step(eps, t, x).prev_sample
        y = other.step(v if kind == "v_prediction" else x_0, t, y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_one_step_is_ddims(pipeline: Any, tiny: ModuleType):
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    latents = []
    for name in ("ipndm", "ddim"):
        batch = make_batch([ImageId("p", 0), ImageId("p", 1)], texts[0], texts[1], (4, 8, 8))
        sampler = registry.method(name).prepare(pipeline, SampleSettings(1, 4.0))
        latents.append(sampler.sample(batch))
    torch.testing.assert_close(latents[0], latents[1], rtol=1e-4, atol=1e-4)
