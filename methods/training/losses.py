"""What the distilled methods are trained to predict.

Every loss is a function of a micro-batch's number alone. Squared norms are means over elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sunbench.errors import unknown
from sunbench.methods.training.networks import Network
from sunbench.methods.training.settings import Guidance
from sunbench.training.data import Pictures
from sunbench.training.diffusion import (
    Level,
    Schedule,
    ddim_step,
    denoised,
    eps_step,
    noised,
    sub_steps,
    trajectory,
)
from sunbench.training.encode import encode_pictures, encode_texts

# ------------------------------------------------------------------------------ what is drawn


class Drawn(NamedTuple):
    """A micro-batch: x_0 and noise (B, C, h, w), texts (B, tokens, width), scales (B,)."""

    x_0: Tensor
    eps: Tensor
    texts: Tensor
    guidance: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Feed:
    """Micro-batches by their numbers; all chance is drawn on the CPU: no device changes it.

    Embeddings of captions are not kept: their last bits depend on the batch that they were made
    in, and a training that was resumed must not.
    """

    pipeline: Any
    pictures: Pictures
    guidance: Guidance
    batch: int
    seed: int

    def _generator(self, k: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + k)

    def captions(self, n: int) -> list[str]:
        """Of a micro-batch that is never trained on; n at most the batch's."""
        return self.pictures.draw(self.batch, self._generator(2**40))[1][:n]

    def draw(self, k: int) -> Drawn:
        """The micro-batch of a number, and the generator after it."""
        g, device = self._generator(k), self.pipeline.unet.device
        pictures, captions = self.pictures.draw(self.batch, g)
        x_0 = encode_pictures(self.pipeline, pictures, g)
        eps = torch.randn(x_0.shape, generator=g).to(device)
        texts = encode_texts(self.pipeline, captions)
        return Drawn(x_0, eps, texts, self.guidance.draw(len(x_0), g), g)


class Aim(NamedTuple):
    """The student's input at timesteps (B,), and what it should say."""

    x_t: Tensor
    timestep: Tensor
    texts: Tensor
    guidance: Tensor
    target: Tensor


# ------------------------------------------------------------------------------ one guidance


def weight(kind: str, at: Level) -> Tensor:
    """Weight (B, 1, 1, 1) of the noise's squared error (Salimans and Ho 2022, section 4).

    constant: the error of x_0, (sigma / alpha)^2 of the noise's; snr: the noise's own; snr_trunc:
    the larger of both; v: that of v = alpha eps - sigma x_0, which is their sum.
    """
    of_x0 = (at.sigma / at.alpha).square()
    if kind == "constant":
        return of_x0
    if kind == "snr":
        return torch.ones_like(of_x0)
    if kind == "snr_trunc":
        return of_x0.clamp_min(1)
    if kind == "v":
        return at.alpha**-2
    raise unknown("weight", kind, ("constant", "snr", "snr_trunc", "v"))


def noise_loss(out: Tensor, target: Tensor, factor: Tensor) -> dict[str, Tensor]:
    """``loss``, the weighted squared error of the noise, and ``mse`` without weights."""
    error = (out - target).square()
    return {"loss": (factor * error).mean(), "mse": error.mean()}


@dataclass(frozen=True)
class GuidanceLoss:
    """One pass in place of two: BoostDiff (Eq. 4), and stage 1 of Guided-Distill (Eq. 2 there)."""

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    weight: str

    @torch.no_grad()
    def aim(self, k: int) -> Aim:
        """The guided noise at timesteps drawn uniformly."""
        d = self.feed.draw(k)
        index = torch.randint(len(self.schedule.alpha), (len(d.x_0),), generator=d.generator)
        index = index.to(d.x_0.device)
        x_t = noised(d.x_0, d.eps, self.schedule.at(index))
        target = self.teacher(x_t, index, d.texts, d.guidance)
        # older torch keeps weights that autocast cast: those of the pass above have no gradient
        torch.clear_autocast_cache()
        return Aim(x_t, index, d.texts, d.guidance, target)

    def __call__(self, k: int) -> dict[str, Tensor]:
        """``loss`` and ``mse``."""
        a = self.aim(k)
        out = self.student(a.x_t, a.timestep, a.texts, a.guidance)
        return noise_loss(out, a.target, weight(self.weight, self.schedule.at(a.timestep)))


# ------------------------------------------------------------------------------ halving


def halved(
    x_t: Tensor, t: Tensor, s: Tensor, schedule: Schedule, predict: Any, steps: int = 2
) -> Tensor:
    """The noise whose one DDIM step from t to s goes where the teacher's ``steps`` go.

    Progressive distillation (Salimans and Ho 2022, Alg. 2, there as x_0); t, s: times (B,).
    """
    x_s = trajectory(x_t, sub_steps(t, s, steps), schedule, predict)
    return eps_step(x_t, x_s, schedule.level(t), schedule.level(s))


@dataclass(frozen=True)
class HalvingLoss:
    """Stage 2 of Guided-Distill: one step of a student of ``steps`` for two of its teacher's."""

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    weight: str
    steps: int

    def times(self, n: int, generator: torch.Generator) -> Tensor:
        """n starts of the student's steps: 1 / N, 2 / N, ..., 1."""
        return (torch.randint(self.steps, (n,), generator=generator) + 1) / self.steps

    @torch.no_grad()
    def aim(self, k: int) -> Aim:
        """The noise that takes the teacher's two steps in one."""
        d = self.feed.draw(k)
        t = self.times(len(d.x_0), d.generator).to(d.x_0.device)
        x_t = noised(d.x_0, d.eps, self.schedule.level(t))

        def teach(x: Tensor, index: Tensor) -> Tensor:
            return self.teacher(x, index, d.texts, d.guidance)

        s = (t - 1 / self.steps).clamp_min(0)
        target = halved(x_t, t, s, self.schedule, teach)
        torch.clear_autocast_cache()
        return Aim(x_t, self.schedule.index(t), d.texts, d.guidance, target)

    def __call__(self, k: int) -> dict[str, Tensor]:
        """``loss`` and ``mse``."""
        a = self.aim(k)
        out = self.student(a.x_t, a.timestep, a.texts, a.guidance)
        return noise_loss(out, a.target, weight(self.weight, self.schedule.at(a.timestep)))


# ------------------------------------------------------------------------------ consistency

SIGMA_DATA, SCALING = 0.5, 10.0


def boundary(index: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out (B, 1, 1, 1) of timesteps: f(x, 0) = x (LCM, section 4.1 and app. C)."""
    scaled = SCALING * index.float()[:, None, None, None]
    size = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / size, scaled / size.sqrt()


def consistency(x_t: Tensor, eps: Tensor, index: Tensor, at: Level) -> Tensor:
    """f = c_skip x_t + c_out x_0 (LCM Eq. 9)."""
    c_skip, c_out = boundary(index)
    return c_skip * x_t + c_out * denoised(x_t, eps, at)


def pseudo_huber(out: Tensor, target: Tensor, c: float) -> Tensor:
    """Mean of sqrt(d^2 + c^2) - c (Song and Dhariwal 2023, arXiv 2310.14189, Eq. 8, by element)."""
    return ((out - target).square() + c**2).sqrt().sub(c).mean()


@dataclass(frozen=True)
class ConsistencyLoss:
    """Latent consistency distillation (LCM, Alg. 1) with a skipping step of k timesteps.

    target: the network that answers at the end of the skip; the student itself, or its average.
    huber_c: None for l2.
    """

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    target: Network
    k: int
    huber_c: float | None = None

    def indices(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps of the grid k i - 1: 19, 39, ..., 999 for k = 20."""
        grid = len(self.schedule.alpha) // self.k
        return self.k * (torch.randint(grid, (n,), generator=generator) + 1) - 1

    @torch.no_grad()
    def aim(self, number: int) -> Aim:
        """Where the target network says that the teacher's DDIM step of k leads."""
        d = self.feed.draw(number)
        index = self.indices(len(d.x_0), d.generator).to(d.x_0.device)
        before = (index - self.k).clamp_min(0)
        here, there = self.schedule.at(index), self.schedule.at(before)
        x_t = noised(d.x_0, d.eps, here)
        eps = self.teacher(x_t, index, d.texts, d.guidance)
        x_s = ddim_step(x_t, eps, here, there)
        said = self.target(x_s, before, d.texts, d.guidance)
        torch.clear_autocast_cache()
        target = consistency(x_s, said, before, there)
        return Aim(x_t, index, d.texts, d.guidance, target)

    def __call__(self, number: int) -> dict[str, Tensor]:
        """``loss``: l2 or pseudo-Huber of f(x_t) to the target."""
        a = self.aim(number)
        eps = self.student(a.x_t, a.timestep, a.texts, a.guidance)
        out = consistency(a.x_t, eps, a.timestep, self.schedule.at(a.timestep))
        if self.huber_c is None:
            return {"loss": (out - a.target).square().mean()}
        return {"loss": pseudo_huber(out, a.target, self.huber_c)}
