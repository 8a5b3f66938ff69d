"""Micro-batches, and the loss of one pass in place of two, which several methods train on.

Every loss is a function of a micro-batch's number alone. Squared norms are means over elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sunbench.errors import unknown
from sunbench.methods.common.networks import Network
from sunbench.methods.common.settings import Guidance
from sunbench.models.protocols import Pipeline
from sunbench.training.data import TrainingImages
from sunbench.training.diffusion import Level, Schedule, noised
from sunbench.training.encode import encode_images, encode_texts
from sunbench.training.prefetch import Prefetcher

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
    in, and a training that was resumed must not. Without guidance to learn the scales are 1.
    """

    pipeline: Pipeline
    data: TrainingImages
    guidance: Guidance | None
    batch: int
    seed: int

    def _generator(self, k: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + k)

    def _examples(self, k: int) -> tuple[Tensor, list[str], torch.Generator]:
        """Images, captions and the generator after them."""
        g = self._generator(k)
        return *self.data.draw(self.batch, g), g

    @cached_property
    def _prefetched(self) -> Prefetcher[tuple[Tensor, list[str], torch.Generator]]:
        return Prefetcher(self._examples, self.pipeline.unet.device)

    def captions(self, n: int) -> list[str]:
        """Of a micro-batch that is never trained on; n at most the batch's."""
        return self._examples(2**40)[1][:n]

    def draw(self, k: int) -> Drawn:
        """The micro-batch of a number, and the generator after it."""
        images, captions, g = self._prefetched(k)
        device = self.pipeline.unet.device
        x_0 = encode_images(self.pipeline, images, g)
        eps = torch.randn(x_0.shape, generator=g).to(device)
        texts, n = encode_texts(self.pipeline, captions), len(x_0)
        scales = torch.ones(n) if self.guidance is None else self.guidance.draw(n, g)
        return Drawn(x_0, eps, texts, scales, g)


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
