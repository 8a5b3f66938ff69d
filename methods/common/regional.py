"""GRI attention of A-SDM (arXiv 2312.15516), a reconstruction: **unspecified in the paper**.

The paper names a "global-regional interactive attention to speed up the computationally intensive
attention part" and gives no formula, figure or number. Here the queries of a self-attention in the
two outermost stages attend to the positions of their own window and to those of the whole map,
averaged over as many windows. Windows have a quarter of the map's side, at least 4: at 64x64
positions that is 256 + 256 keys per query in place of 4096. No weight is added.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from sunbench.errors import UserError

#: Stages, from the outermost, whose self-attention is replaced.
STAGES = 2
LEAST = 4


def window_side(positions: int) -> int | None:
    """Positions per side of a window; None where a map (square) is attended to as a whole."""
    side = math.isqrt(positions)
    window = max(side // 4, LEAST)
    whole = side * side != positions or side % window or side <= window
    return None if whole else window


def windows(x: Tensor, window: int) -> Tensor:
    """Positions (B, N, C) of a square map by window: (B, N / window^2, window^2, C)."""
    side = math.isqrt(x.shape[1])
    n = side // window
    grid = x.reshape(len(x), n, window, n, window, -1).transpose(2, 3)
    return grid.reshape(len(x), n * n, window * window, -1)


def positions(x: Tensor, window: int) -> Tensor:
    """The inverse of ``windows``: (B, N, C)."""
    n = math.isqrt(x.shape[1])
    grid = x.reshape(len(x), n, n, window, window, -1).transpose(2, 3)
    return grid.reshape(len(x), n * n * window * window, -1)


def pooled(x: Tensor, window: int) -> Tensor:
    """The map averaged over ``side / window`` patches per side: (B, window^2, C)."""
    side = math.isqrt(x.shape[1])
    grid = x.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, window).flatten(2).transpose(1, 2)


class RegionalProcessor(AttnProcessor2_0):
    """Self-attention to the own window and the averaged map; all else as diffusers has it."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        window = window_side(hidden_states.shape[1])
        if encoder_hidden_states is not None or attention_mask is not None or window is None:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
            )
        own = windows(hidden_states, window)  # (B, W, M, C)
        everywhere = pooled(hidden_states, window)[:, None].expand(-1, own.shape[1], -1, -1)
        keys = torch.cat([own, everywhere], 2)
        q, k, v = attn.to_q(own), attn.to_k(keys), attn.to_v(keys)
        heads = [x.flatten(0, 1).unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v)]
        out = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        out = positions(out.unflatten(0, own.shape[:2]), window)
        return attn.to_out[1](attn.to_out[0](out))


def place_regional(unet: Any) -> Any:
    """Replace a network's outer self-attentions, in place; UserError where there is none."""
    last = len(unet.up_blocks) - 1
    stages = [f"down_blocks.{i}." for i in range(STAGES)]
    stages += [f"up_blocks.{last - i}." for i in range(STAGES)]
    names = [n for n in unet.attn_processors if n.startswith(tuple(stages)) and "attn1" in n]
    if not names:
        raise UserError("given a U-Net without self-attention in its outer stages")
    for name in names:
        unet.get_submodule(name.removesuffix(".processor")).set_processor(RegionalProcessor())
    return unet
