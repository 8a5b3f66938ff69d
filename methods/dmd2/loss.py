"""Distribution matching (DMD: arXiv 2311.18828; DMD2: arXiv 2405.14867), without a discriminator.

The student's images should be as likely under the base as under themselves: the gradient of
KL(p_fake || p_real) by an image is s_fake - s_real (DMD2 Eq. 1), the scores of both at a noised
copy of it. The base under guidance has s_real; a second network that learns to denoise the
student's images has s_fake.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sunbench.methods.common.losses import Drawn, Feed
from sunbench.methods.common.networks import Network
from sunbench.methods.lcm.loss import consistency
from sunbench.training.diffusion import Schedule, denoised, noised

#: Of the schedule, between which the scores are compared (DMD, section 3.2).
T_MIN, T_MAX = 0.02, 0.98


def matching_gradient(x_0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The gradient of the loss by images x_0: (fake - real) / mean |x_0 - real|, (B, C, h, w).

    real, fake: what both networks make of the noised images. As s = (alpha x_0 - x_t) / sigma^2
    the difference of x_0 is that of scores; the weight is DMD Eq. 8, as the authors' code has it.
    """
    size = (x_0 - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (fake - real) / size.clamp_min(torch.finfo(size.dtype).tiny)


def with_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient by x is gradient / x.numel(), half of its mean square in value."""
    return 0.5 * (x - (x - gradient).detach()).square().mean()


@dataclass(frozen=True)
class MatchingLoss:
    """Two losses at two rates (DMD2, section 4.2): the student's in one of ``ratio`` updates.

    grids: timesteps of the sampler, the latest first, for each number of steps; accumulate:
    micro-batches of an update. Neither loss has a gradient by the other's parameters.
    """

    feed: Feed
    schedule: Schedule
    teacher: Network
    student: Network
    fake: Network
    grids: tuple[Tensor, ...]
    ratio: int
    accumulate: int = 1

    def teaches(self, number: int) -> bool:
        """Whether the student learns from a micro-batch."""
        return number // self.accumulate % self.ratio == 0

    def _times(self, n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
        """Timesteps (n,), uniform between shares of the schedule."""
        count = len(self.schedule.alpha)
        ends = int(low * count), min(int(high * count) + 1, count)
        return torch.randint(*ends, (n,), generator=generator).to(self.schedule.alpha.device)

    def _noised(self, x_0: Tensor, t: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noised images at timesteps (B,), and their noise."""
        eps = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        return noised(x_0, eps, self.schedule.at(t)), eps

    def _said(self, x_t: Tensor, t: Tensor, d: Drawn) -> Tensor:
        """The student's x_0."""
        eps = self.student(x_t, t, d.texts, d.guidance)
        return consistency(x_t, eps, t, self.schedule.at(t))

    @torch.no_grad()
    def simulated(self, d: Drawn) -> tuple[Tensor, Tensor]:
        """The student's own input at one of its timesteps (backward simulation, section 4.5)."""
        grid = self.grids[int(torch.randint(len(self.grids), (), generator=d.generator))]
        stop = int(torch.randint(len(grid), (), generator=d.generator))
        times = [t.expand(len(d.eps)).to(d.eps.device) for t in grid[: stop + 1]]
        x = d.eps
        for now, then in pairwise(times):
            x, _ = self._noised(self._said(x, now, d), then, d.generator)
        return x, times[-1]

    @torch.no_grad()
    def gradient(self, x_0: Tensor, d: Drawn) -> Tensor:
        """The gradient by the student's images."""
        t = self._times(len(x_0), T_MIN, T_MAX, d.generator)
        x_t, _ = self._noised(x_0, t, d.generator)
        at = self.schedule.at(t)
        real, fake = (
            denoised(x_t, network(x_t, t, d.texts, d.guidance), at)
            for network in (self.teacher, self.fake)
        )
        return matching_gradient(x_0, real, fake)

    def denoising(self, x_0: Tensor, d: Drawn) -> Tensor:
        """What the second network learns: the noise in the student's images (DMD Eq. 6)."""
        t = self._times(len(x_0), 0.0, 1.0, d.generator)
        x_t, eps = self._noised(x_0, t, d.generator)
        return (self.fake(x_t, t, d.texts, d.guidance) - eps).square().mean()

    def __call__(self, number: int) -> dict[str, Tensor]:
        """``loss``; ``denoising``, and ``matching``: 0 where the student does not learn."""
        d, teaches = self.feed.draw(number), self.teaches(number)
        x_t, t = self.simulated(d)
        torch.clear_autocast_cache()  # older torch keeps cast weights, here without a gradient
        with torch.set_grad_enabled(teaches):
            x_0 = self._said(x_t, t, d)
        matching = x_0.new_zeros(())
        if teaches:
            matching = with_gradient(x_0, self.gradient(x_0.detach(), d))
        torch.clear_autocast_cache()
        denoising = self.denoising(x_0.detach(), d)
        return {"loss": matching + denoising, "denoising": denoising, "matching": matching}
