"""Who answers in a distillation: teachers and students, all with one signature.

A network maps (x_t (B, C, h, w), timesteps (B,), texts (B, tokens, width), guidance scales (B,)) to
the noise that it sees in x_t, (B, C, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sunbench.methods.common.students import check_guidance_input
from sunbench.models.protocols import Pipeline
from sunbench.training.diffusion import guided_eps

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def w_embedding(pipeline: Pipeline, guidance_scale: Tensor, dim: int) -> Tensor:
    """The input of w = guidance_scale - 1, as diffusers' pipeline makes it: (B, dim).

    Raises UserError for a scale of 1 or less: w = 0 is no guidance and w = -1 the negative.
    """
    check_guidance_input(float(guidance_scale.min()))
    embedding: Tensor = pipeline.get_guidance_scale_embedding(guidance_scale - 1, embedding_dim=dim)
    return embedding


@dataclass(frozen=True)
class Guided:
    """A frozen U-Net under classifier-free guidance against the empty text: one call of 2B.

    empty: (1, tokens, width).
    """

    unet: Any
    empty: Tensor

    @torch.no_grad()
    def __call__(self, x_t: Tensor, index: Tensor, texts: Tensor, guidance: Tensor) -> Tensor:
        """e_n + g (e_p - e_n)."""
        out = self.unet(
            torch.cat([x_t, x_t]),
            torch.cat([index, index]),
            encoder_hidden_states=torch.cat([texts, self.empty.expand_as(texts)]),
            return_dict=False,
        )[0]
        eps_p, eps_n = out.float().chunk(2)
        return guided_eps(eps_p, eps_n, guidance.to(x_t.device)[:, None, None, None])


@dataclass(frozen=True)
class Plain:
    """A U-Net that holds its guidance."""

    unet: Any

    def __call__(self, x_t: Tensor, index: Tensor, texts: Tensor, guidance: Tensor) -> Tensor:
        """One pass; the scale is in the weights."""
        out: Tensor = self.unet(x_t, index, encoder_hidden_states=texts, return_dict=False)[0]
        return out.float()


@dataclass(frozen=True)
class Conditioned:
    """A U-Net that takes its guidance as an input (``time_cond_proj_dim``)."""

    unet: Any
    pipeline: Pipeline

    def __call__(self, x_t: Tensor, index: Tensor, texts: Tensor, guidance: Tensor) -> Tensor:
        """One pass under w = g - 1."""
        w = w_embedding(self.pipeline, guidance.cpu(), self.unet.config.time_cond_proj_dim)
        out: Tensor = self.unet(
            x_t,
            index,
            encoder_hidden_states=texts,
            timestep_cond=w.to(x_t.device),
            return_dict=False,
        )[0]
        return out.float()
