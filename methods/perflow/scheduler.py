"""Sampling a piecewise rectified flow (PeRFlow: Yan et al. 2024, arXiv 2405.07510).

Time runs from 1 (noise) to 0 and is cut into windows of one length. Within a window, from s down to
e, a latent moves on a straight line: z_t = ((t - e) z_s + (s - t) z_e) / (s - e). The network
predicts the noise eps of z_s = gamma z_e + sqrt(1 - gamma^2) eps, gamma^2 = alphas_cumprod[s] /
alphas_cumprod[e] (section 3.3; the authors' scheduler calls it ``diff_eps``), so z_e follows from
z_t and eps, and a step goes toward it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


def window_end(z: Tensor, eps: Tensor, shares: tuple[float, float], gamma: float) -> Tensor:
    """z_e (B, C, h, w) by z_t and its noise.

    shares: (t - e) / (s - e) of the window that is left, and (s - t) / (s - e) that is behind.
    """
    left, behind = shares
    return (z - left * (1 - gamma**2) ** 0.5 * eps) / (left * gamma + behind)


class PeRFlowScheduler(DDIMScheduler):
    """Euler steps on the straight lines of ``windows`` windows.

    Timesteps are times of 1000: the first is 1000, a window's end is the next one's start.
    """

    #: Of the published weights.
    windows: int = 4

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Even steps in each window, the first windows having one more where they do not divide.

        Raises ValueError for fewer steps than windows.
        """
        steps, more = divmod(num_inference_steps, self.windows)
        if not steps:
            raise ValueError(f"{num_inference_steps} steps, expected at least {self.windows}")
        self.num_inference_steps = num_inference_steps
        length = self.config.num_train_timesteps / self.windows
        times = []
        for k in range(self.windows):
            n = steps + (k < more)
            times += [int((self.windows - k - i / n) * length + 1e-6) for i in range(n)]
        self.timesteps = torch.tensor(times, device=device)
        self._after = dict(pairwise([*times, 0]))

    def _window(self, time: int) -> tuple[int, int]:
        """The start and the end of the window that a time lies in, its start included."""
        total = int(self.config.num_train_timesteps)
        k = -(-time * self.windows // total)
        return total * k // self.windows, total * (k - 1) // self.windows

    def _kept(self, time: int) -> float:
        """alphas_cumprod at a time, timestep 0 at time 0."""
        return float(self.alphas_cumprod[max(0, time - 1)])

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised latents at times of 1000."""
        at = (timesteps - 1).clamp_min(0)
        noised: Tensor = super().add_noise(original_samples, noise, at)
        return noised

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMSchedulerOutput | tuple[Tensor]:
        """One step: z of the next time, (B, C, h, w)."""
        now = int(timestep)
        start, end = self._window(now)
        left = (now - end) / (start - end)
        gamma = (self._kept(start) / self._kept(end)) ** 0.5
        goal = window_end(sample, model_output, (left, 1 - left), gamma)
        after: Tensor = sample + (goal - sample) * (now - self._after[now]) / (now - end)
        return DDIMSchedulerOutput(after, goal) if return_dict else (after,)
