"""GITS: costs in closed form for Gaussian data, and paths against all there are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.common.fitting import fit_tables
from sunbench.methods.common.settings import settings_for
from sunbench.methods.common.training import TrainingJob
from sunbench.methods.gits.fit import GitsFit, best_path, fit_timesteps, step_costs
from sunbench.sampling import SampleSettings

DATA = 0.5  # standard deviation s of the data


def exact(levels: torch.Tensor, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x / alpha on the exact trajectories of data N(0, s^2), and the noise that is in it."""
    start = torch.randn(images, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    spread = (DATA**2 + levels**2).sqrt()
    points = torch.stack([start * s for s in spread])
    noise = torch.stack([p * r / s**2 for p, r, s in zip(points, levels, spread, strict=True)])
    return points, noise[:-1]


def closed_form(levels: np.ndarray, size: float) -> np.ndarray:
    """Costs of Euler steps on data N(0, s^2): what a step gives, less what is right."""
    spread = np.sqrt(DATA**2 + levels**2)
    i, j = np.meshgrid(range(len(levels) - 1), range(len(levels)), indexing="ij")
    reached = spread[i] * (1 + (levels[j] - levels[i]) * levels[i] / spread[i] ** 2)
    return np.where(j > i, size * np.abs(reached - spread[j]), np.inf)


def test_costs_are_those_in_closed_form():
    levels = torch.linspace(10, 0.05, 9).double()
    points, noise = exact(levels, 6)
    size = float(
        (points[0] / (DATA**2 + levels[0] ** 2).sqrt()).square().mean((1, 2, 3)).sqrt().mean()
    )
    ours = step_costs(points, noise, levels, "l2").numpy()
    np.testing.assert_allclose(ours, closed_form(levels.numpy(), size), rtol=1e-9, atol=1e-12)


def test_a_straight_trajectory_deviates_nowhere_and_a_bent_one_where_it_bends():
    """A circle's quarter in a plane: Euler's steps are its tangents."""
    straight = torch.arange(5.0).reshape(-1, 1, 1, 1, 1).expand(-1, 2, 1, 1, 3)
    along = torch.ones(4, 2, 1, 1, 3)
    costs = step_costs(straight, along, torch.arange(5.0), "deviation")
    assert torch.equal(costs[costs.isfinite()], torch.zeros(10).double())

    angle = torch.linspace(0, torch.pi / 2, 5).double()
    circle = torch.stack([angle.cos(), angle.sin()], 1)[:, None, None, None]
    tangent = torch.stack([-angle.sin(), angle.cos()], 1)[:-1, None, None, None]
    ours = step_costs(circle, tangent, angle, "deviation")
    # the chord is x + y = 1; distances to it are |x + y - 1| / sqrt(2), a mean over two numbers
    for i in range(4):
        reached = circle[i] + (angle[i + 1 :, None, None, None, None] - angle[i]) * tangent[i]
        off = ((reached.sum(-1) - 1).abs() - (circle[i + 1 :].sum(-1) - 1).abs()).flatten() / 2
        torch.testing.assert_close(ours[i, i + 1 :], off)


def test_settings_are_those_released_for_stable_diffusion():
    """zju-pi/diff-sampler, gits-main/launch.sh: coeff 1.20, metric dev, 61 timestamps."""
    for settings in (GitsFit(), settings_for("gits", GitsFit, None, zoo=True)):
        assert (settings.coefficient, settings.cost) == (1.2, "deviation")
        assert (settings.grid + 1, settings.images) == (61, 256)


def test_an_unknown_cost_is_refused():
    with pytest.raises(UserError, match="unknown cost 'l1'"):
        GitsFit(cost="l1")


@pytest.mark.parametrize("coefficient", [0.8, 1.0, 1.15, 1.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_the_path_is_the_best_of_all(steps: int, coefficient: float):
    levels = np.geomspace(14.6, 0.03, 11)
    costs = closed_form(levels, 1.0)
    n = len(costs)

    def price(inner: tuple[int, ...]) -> float:
        way = [0, *inner, n]
        return sum(coefficient**k * costs[a, b] for k, (a, b) in enumerate(pairwise(way)))

    best = min(combinations(range(1, n), steps - 1), key=price)
    assert best_path(torch.from_numpy(costs), steps, coefficient) == [0, *best, n]


def test_two_euler_steps_are_best_where_the_path_says():
    """With one point to choose, the path at coefficient 1 is the known optimum of the sum."""
    levels = np.geomspace(14.6, 0.03, 200)
    costs = closed_form(levels, 1.0)
    middle = best_path(torch.from_numpy(costs), 2, 1.0)[1]
    sums = costs[0, 1:-1] + costs[1:, -1]
    assert middle == 1 + int(np.argmin(sums))


@pytest.fixture
def job(make: Callable[..., TrainingJob]) -> TrainingJob:
    return make("gits", steps=(1, 3, 6), images=6, grid=12)


def test_a_fit_falls_from_the_first_timestep(job: TrainingJob):
    tables = fit_timesteps(job)
    assert sorted(tables) == [1, 3, 6]
    grid = set(job.schedule.index(1 - torch.arange(13) / 12).tolist())
    for n, times in tables.items():
        assert len(times) == n
        assert times[0] == 999
        assert bool((times.diff() < 0).all())
        assert set(times.tolist()) <= grid


def test_batches_of_the_warm_up_do_not_matter(make: Callable[..., TrainingJob]):
    whole = fit_timesteps(make("gits", steps=(3,), images=4, grid=10, loop={"batch": 4}))
    again = fit_timesteps(make("gits", "again", steps=(3,), images=4, grid=10, loop={"batch": 4}))
    assert torch.equal(whole[3], again[3])


def test_a_fit_is_sampled_from_and_more_steps_are_refused(job: TrainingJob):
    path = fit_tables(job, lambda: fit_timesteps(job))
    assert load_file(path)["3"].tolist()[0] == 999
    method = registry.method("gits", weights={"gits": str(path)})
    pipeline = job.pipeline
    assert method.skip(pipeline, SampleSettings(3, 4.0)) is None
    content = method.content(pipeline, SampleSettings(3, 4.0))
    assert content["fitted"] == load_file(path)["3"].tolist()
    reason = method.skip(pipeline, SampleSettings(7, 4.0))
    assert reason == "gits: a schedule fitted for 1, 3, 6 steps, 7 asked"


def test_a_finished_fit_is_kept(job: TrainingJob):
    path = fit_tables(job, lambda: fit_timesteps(job))
    before = path.stat().st_mtime_ns
    assert fit_tables(job, lambda: {}) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (torch.tensor([999.0, 999.0, 1.0]), "expected whole ones that fall"),
        (torch.tensor([999.5, 10.0, 1.0]), "expected whole ones that fall"),
        (torch.tensor([1000.0, 10.0, 1.0]), "expected whole ones that fall"),
        (torch.tensor([999.0, 1.0]), "expected whole ones that fall"),
        (torch.tensor([999.0, float("nan"), 1.0]), "not finite|NaN|nan"),
    ],
)
def test_a_broken_table_is_one_line(table: torch.Tensor, words: str, tmp_path: Path, pipeline: Any):
    from sunbench.methods.common.fitted import write_step_tables

    write_step_tables(tmp_path / "gits.safetensors", {3: table}, {})
    method = registry.method("gits", weights={"gits": str(tmp_path / "gits.safetensors")})
    reason = method.skip(pipeline, SampleSettings(3, 4.0))
    assert reason is not None
    assert "\n" not in reason
    import re

    assert re.search(words, reason)


def test_a_grid_coarser_than_the_steps_is_refused():
    with pytest.raises(UserError, match="given grid = 10"):
        GitsFit(steps=(4, 20), grid=10)
