"""Fitting GITS (Chen et al. 2024, arXiv 2405.11326, section 4): schedules as shortest paths.

Trajectories of guided DDIM on a fine grid show what a single Euler step from any point of the grid
to any later one would miss. The schedule of N steps is the path of N such steps that costs least,
in x / alpha, where DDIM is Euler's method in sigma / alpha; later costs weigh ``coefficient`` times
more, step by step. A step costs how much farther from the straight line between a trajectory's ends
it leads than the trajectory itself ("deviation", which the released code calls ``dev``), or how far
from the trajectory ("l2").

Settings are the released code's (zju-pi/diff-sampler at 68d5ce4, gits-main): metric ``dev``, 61
points, 256 trajectories; coefficient 1.15 by default and 1.20 in its command for Stable Diffusion.
Its teacher there is DPM-Solver++ where ours is DDIM, on the same 60 steps of evenly spaced
timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sunbench.errors import UserError, unknown
from sunbench.methods.common.fitting import FittingSettings, fit_tables, warm_up
from sunbench.methods.common.training import TrainingJob, open_job
from sunbench.sampling import SampleBatch
from sunbench.training.diffusion import ddim_step
from sunbench.training.request import TrainRequest
from sunbench.training.settings import within


@dataclass(frozen=True)
class GitsFit(FittingSettings):
    """256 trajectories of 60 steps; coefficient and cost as released for Stable Diffusion."""

    grid: int = 60
    coefficient: float = 1.2
    cost: str = "deviation"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("grid", self.grid, max(self.steps), 1000)
        within("coefficient", self.coefficient, 0.1, 10)
        if self.cost not in COSTS:
            raise unknown("cost", self.cost, COSTS)


def l2_cost(points: Tensor, reached: Tensor, first: int) -> Tensor:
    """Root mean square distances (M, B) of what steps reach to points first, first + 1, ..."""
    error = reached - points[first : first + len(reached)]
    return error.flatten(2).square().mean(2).sqrt()


def from_chord(points: Tensor, x: Tensor) -> Tensor:
    """Root mean square distances (M, B) of x (M, B, D) to the lines from first to last point."""
    chord, left = points[-1] - points[0], points[-1] - x
    along = (left * chord).sum(-1, keepdim=True) / chord.square().sum(-1, keepdim=True)
    return (left - along * chord).square().mean(-1).sqrt()


def deviation_cost(points: Tensor, reached: Tensor, first: int) -> Tensor:
    """How much farther (M, B) from the chord steps lead than points first, first + 1, ... lie."""
    flat = points.flatten(2)
    own = from_chord(flat, flat[first : first + len(reached)])
    return from_chord(flat, reached.flatten(2)) - own


#: (points (N + 1, B, ...), reached (M, B, ...), number of the first one's point) -> (M, B).
COSTS = {"deviation": deviation_cost, "l2": l2_cost}


def step_costs(points: Tensor, noise: Tensor, levels: Tensor, cost: str) -> Tensor:
    """Costs (N, N + 1) of one Euler step from point i to point j > i, infinite elsewhere.

    points: (N + 1, B, ...) of x / alpha on a fine grid; noise: (N, B, ...) predicted there;
    levels: (N + 1,) of sigma / alpha. A cost is the mean over B.
    """
    n = len(noise)
    points, noise = points.double(), noise.double()
    costs = torch.full((n, n + 1), torch.inf, dtype=torch.float64)
    for i in range(n):
        reach = (levels[i + 1 :] - levels[i]).reshape(-1, *[1] * (points.ndim - 1))
        reached = points[i] + reach.to(points) * noise[i]
        costs[i, i + 1 :] = COSTS[cost](points, reached, i + 1).mean(1).cpu()
    return costs


def best_path(costs: Tensor, steps: int, coefficient: float) -> list[int]:
    """Points of the cheapest way from the first to the last in that many steps, both ends in it.

    costs: (N, N + 1). The k-th step's cost counts ``coefficient`` ** k times.
    """
    n = len(costs)
    left = costs[:, n]  # from each point to the end, in one step
    chosen: list[Tensor] = []
    for _ in range(steps - 1):
        ways = costs[:, :n] + coefficient * left[None, :]
        left, after = ways.min(1)
        chosen.append(after)
    path = [0]
    for after in reversed(chosen):
        path.append(int(after[path[-1]]))
    return [*path, n]


class Trajectories:
    """The base's guided DDIM on the fine grid of a fit."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, schedule = job, job.schedule
        times = 1 - torch.arange(job.settings.grid + 1) / job.settings.grid
        self.timesteps = schedule.index(times)
        self.levels = schedule.sigma[self.timesteps] / schedule.alpha[self.timesteps]

    @torch.no_grad()
    def costs(self, batch: SampleBatch) -> Tensor:
        """Costs of single steps on the trajectories of a batch."""
        b, schedule = self.job, self.job.schedule
        device = b.pipeline.unet.device
        x, texts = batch.latents.to(device), batch.prompt_embeds.to(device)
        scale = torch.full((len(batch),), b.guidance.low)
        points, noise = [], []
        for now, then in zip(self.timesteps, self.timesteps[1:], strict=False):
            index, to = now.expand(len(x)), then.expand(len(x))
            eps = b.teacher(x, index.to(device), texts, scale)
            points.append(x / schedule.alpha[now])
            noise.append(eps)
            x = ddim_step(x, eps, schedule.at(index), schedule.at(to))
        points.append(x / schedule.alpha[self.timesteps[-1]])
        return step_costs(
            torch.stack(points), torch.stack(noise), self.levels, self.job.settings.cost
        )


def fit_timesteps(job: TrainingJob) -> dict[int, Tensor]:
    """Timesteps by their number, from the costs over all warm-up trajectories."""
    s, ways = job.settings, Trajectories(job)
    costs = [len(batch) * ways.costs(batch) for batch in warm_up(job, s.images)]
    total = torch.stack(costs).sum(0)
    if not bool(torch.isfinite(total[0, 1:]).all()):
        raise UserError("the warm-up's trajectories are not finite, expected a base that samples")
    paths = {n: best_path(total / s.images, n, s.coefficient) for n in s.steps}
    return {n: ways.timesteps[path[:-1]].float() for n, path in paths.items()}


def train(request: TrainRequest) -> Path:
    """``sunbench train gits``: ``out/gits.safetensors``, for the base's fine-tunes too."""
    request.refuse_start("starts from nothing")
    job = open_job(GitsFit, request)
    return fit_tables(job, lambda: fit_timesteps(job))
