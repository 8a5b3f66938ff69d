"""iPNDM (Zhang and Chen 2022, arXiv 2204.13902, section 4): DDIM steps on extrapolated noise.

The noise of a step is the Adams-Bashforth combination of the last four predictions; the first
steps have fewer. diffusers' ``IPNDMScheduler`` has a noise schedule of its own: not a model's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from sunbench.sampling import PipelineMethod, SolverSpec

#: Adams-Bashforth weights of the predictions, the newest first, by how many there are.
WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class IPNDM(DDIMScheduler):
    """DDIM whose noise is extrapolated from up to four evaluations, on DDIM's timesteps."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As DDIM's; forgets earlier evaluations."""
        super().set_timesteps(num_inference_steps, device)
        self._after = dict(pairwise(self.timesteps.tolist()))
        self._noise: list[Tensor] = []

    def _level(self, timestep: int) -> tuple[float, float]:
        """alpha and sigma at a timestep; below 0 at the end of the schedule."""
        kept = self.final_alpha_cumprod if timestep < 0 else self.alphas_cumprod[timestep]
        return float(kept**0.5), float((1 - kept) ** 0.5)

    def _noise_of(self, output: Tensor, sample: Tensor, alpha: float, sigma: float) -> Tensor:
        """The noise (B, C, h, w) in a sample by what the network says of it."""
        kind = self.config.prediction_type
        if kind == "epsilon":
            return output
        if kind == "v_prediction":
            return alpha * output + sigma * sample
        return (sample - alpha * output) / sigma

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMSchedulerOutput | tuple[Tensor]:
        """One step: x of the next timestep, (B, C, h, w)."""
        now = int(timestep)
        alpha, sigma = self._level(now)
        then = self._level(self._after.get(now, -1))
        noise = self._noise_of(model_output, sample, alpha, sigma)
        self._noise = [noise, *self._noise[: len(WEIGHTS) - 1]]
        weights = WEIGHTS[len(self._noise) - 1]
        eps = sum(w * e for w, e in zip(weights, self._noise, strict=True))
        x_0 = (sample - sigma * eps) / alpha
        after: Tensor = then[0] * x_0 + then[1] * eps
        return DDIMSchedulerOutput(after, x_0) if return_dict else (after,)


def ipndm() -> PipelineMethod:
    """IPNDM of order 4 on trailing timesteps."""
    settings = {
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "timestep_spacing": "trailing",
    }
    return PipelineMethod("ipndm", SolverSpec.of(IPNDM, settings))
