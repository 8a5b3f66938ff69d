"""Distribution matching on Gaussians, whose scores are known, and the student's own inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.common.losses import Drawn
from sunbench.methods.common.settings import settings_for
from sunbench.methods.common.training import TrainingJob
from sunbench.methods.dmd2.loss import MatchingLoss, matching_gradient, with_gradient
from sunbench.methods.dmd2.train import DmdTraining, dmd2_stage, sampler_timesteps
from sunbench.sampling import SampleSettings
from sunbench.training.diffusion import Schedule, denoised

SCHEDULE = Schedule.of(
    torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
)
SPREAD = 0.5


@dataclass
class Gaussian:
    """The exact noise in samples of N(mean, SPREAD^2)."""

    mean: Any

    def __call__(self, x: Tensor, t: Tensor, texts: Tensor, guidance: Tensor) -> Tensor:
        at = SCHEDULE.at(t)
        total = (at.alpha * SPREAD).square() + at.sigma.square()
        return at.sigma * (x - at.alpha * self.mean) / total


@dataclass
class Shifted:
    """A student whose images of standard noise are N(mean, SPREAD^2)."""

    mean: Tensor

    def __call__(self, x: Tensor, t: Tensor, texts: Tensor, guidance: Tensor) -> Tensor:
        at = SCHEDULE.at(t)
        return (x - at.alpha * (self.mean + SPREAD * x)) / at.sigma


class Noise:
    """Micro-batches of 64 numbers."""

    def draw(self, k: int) -> Drawn:
        g = torch.Generator().manual_seed(k)
        eps = torch.randn(64, 1, 1, 1, generator=g, dtype=torch.float64)
        return Drawn(eps, eps, torch.zeros(64, 1, 1), torch.ones(64), g)


def loss_of(student: Any, fake: Any, real: Any, ratio: int = 1) -> MatchingLoss:
    grid = (torch.tensor([999]),)
    return MatchingLoss(Noise(), SCHEDULE, real, student, fake, grid, ratio)  # type: ignore[arg-type]


def test_the_gradient_is_the_difference_of_scores():
    """Of the noised densities, by automatic differentiation."""
    g = torch.Generator().manual_seed(0)
    t = torch.tensor([40, 300, 700, 950])
    at = SCHEDULE.at(t)
    x_0 = torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64)
    eps = torch.randn(x_0.shape, generator=g, dtype=torch.float64)
    x_t = (at.alpha * x_0 + at.sigma * eps).requires_grad_(True)
    scores, means = {}, {}
    for name, mean in (("real", 1.5), ("fake", -0.25)):
        size = ((at.alpha * SPREAD).square() + at.sigma.square()).sqrt()
        logs = Normal(at.alpha * mean, size).log_prob(x_t).sum()
        (scores[name],) = torch.autograd.grad(logs, x_t)
        means[name] = denoised(x_t.detach(), Gaussian(mean)(x_t.detach(), t, x_0, x_0), at)
    gradient = matching_gradient(x_0, means["real"], means["fake"])
    change = at.sigma.square() / at.alpha * (scores["fake"] - scores["real"])
    weight = (x_0 - means["real"]).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, change / weight)


def test_nothing_is_left_to_match_where_both_scores_agree():
    mean = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    parts = loss_of(Shifted(mean), Gaussian(0.3), Gaussian(0.3))(5)
    parts["matching"].backward()
    assert float(parts["matching"].detach()) == 0
    assert mean.grad is not None
    assert float(mean.grad) == 0


def test_a_scalar_has_the_gradient_that_it_is_given():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    gradient = torch.arange(12.0).reshape(3, 4)
    with_gradient(x, gradient).backward()
    torch.testing.assert_close(x.grad, gradient / 12, atol=1e-6, rtol=1e-5)


def test_both_networks_learn_the_gaussian():
    """The student goes to the base's mean, the second network to the student's."""
    student = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
    fake = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
    loss = loss_of(Shifted(student), Gaussian(fake), Gaussian(0.8), ratio=2)
    optimizer = torch.optim.Adam([student, fake], 0.05, betas=(0.5, 0.9))
    for k in range(300):
        optimizer.zero_grad(set_to_none=True)
        loss(k)["loss"].backward()
        optimizer.step()
    assert student.item() == pytest.approx(0.8, abs=0.1)
    assert fake.item() == pytest.approx(student.item(), abs=0.1)


def test_the_student_learns_in_one_of_several_updates(make: Callable[..., TrainingJob]):
    """And each loss reaches its own network alone, though they are added."""
    stage = dmd2_stage(make("dmd2-lora", ratio=3, loop={"accumulate": 2}))
    loss: Any = stage.loss
    assert [loss.teaches(k) for k in range(8)] == [True] * 2 + [False] * 4 + [True] * 2
    trainee: Any = stage.trainee
    for number, learned in ((2, False), (0, True)):
        trainee.module.zero_grad(set_to_none=True)
        parts = loss(number)
        parts["loss"].backward()
        assert bool(parts["matching"] > 0) is learned
        grads = [p.grad for p in trainee.student.module.parameters()]
        assert all((x is not None) is learned for x in grads)
        assert all(p.grad is not None for p in trainee.fake.module.parameters())
    both = [p.grad.clone() for p in trainee.module.parameters()]
    trainee.module.zero_grad(set_to_none=True)
    parts = loss(0)
    parts["denoising"].backward(retain_graph=True)
    assert all(p.grad is None for p in trainee.student.module.parameters())
    fakes = [p.grad.clone() for p in trainee.fake.module.parameters()]
    parts["matching"].backward()
    after = [p.grad for p in trainee.fake.module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(fakes, after, strict=True))
    again = [p.grad for p in trainee.module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True))


def test_the_students_inputs_are_those_of_sampling(
    make: Callable[..., TrainingJob], weights: dict[str, str], pipeline: Any
):
    job = make("dmd2-lora", steps=(4, 8))
    loss: Any = dmd2_stage(job).loss
    for grid, steps in zip(loss.grids, (4, 8), strict=True):
        method = registry.method("dmd2-lora", weights=weights)
        scheduler = method.prepare(pipeline, SampleSettings(steps, 5.0)).pipeline.scheduler
        scheduler.set_timesteps(steps)
        assert torch.equal(grid, scheduler.timesteps)
    seen = set()
    for k in range(12):
        x, t = loss.simulated(job.feed(job.settings.loop).draw(k))
        assert x.shape == (4, 4, 8, 8)
        assert not x.requires_grad
        seen |= set(t.tolist())
    assert seen <= {*loss.grids[0].tolist(), *loss.grids[1].tolist()}
    assert len(seen) > 3
    assert sampler_timesteps(job, 4).tolist() == [999, 759, 499, 259]


def test_simulation_starts_at_pure_noise_and_follows_the_student():
    """Of a student that always says the same, every later input is that image with fresh noise."""
    mean = torch.tensor(2.0, dtype=torch.float64)

    def student(x: Tensor, t: Tensor, *more: Any) -> Tensor:
        at = SCHEDULE.at(t)
        return (x - at.alpha * mean) / at.sigma

    loss = loss_of(student, Gaussian(0), Gaussian(0))
    loss = MatchingLoss(
        loss.feed, SCHEDULE, loss.teacher, student, loss.fake, (torch.tensor([999, 250]),), 1
    )
    by_time: dict[int, list[Tensor]] = {}
    for k in range(40):
        d = loss.feed.draw(k)
        x, t = loss.simulated(d)
        by_time.setdefault(int(t[0]), []).append(x - d.eps if int(t[0]) == 999 else x)
    assert float(torch.cat(by_time[999]).abs().max()) == 0
    later, at = torch.cat(by_time[250]), SCHEDULE.at(torch.tensor([250]))
    assert float(later.mean()) == pytest.approx(float(at.alpha * mean), abs=0.05)
    assert float(later.std()) == pytest.approx(float(at.sigma), abs=0.05)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("steps = []", "given steps = [], expected at least one"),
        ("steps = [4, 51]", "given steps = 51, expected 1 to 50"),
        ("ratio = 0", "given ratio = 0, expected 1 to 1000"),
        ("guidance_scale = 1.0", "expected more than 1"),
        ("ratios = 3", "unknown dmd2-lora training setting 'ratios'; did you mean 'ratio'?"),
    ],
)
def test_settings_that_are_wrong_are_one_line(tmp_path: Path, text: str, line: str):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        settings_for("dmd2-lora", DmdTraining, file, zoo=False)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
