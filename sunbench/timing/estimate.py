"""How long a U-Net evaluation takes here."""

from __future__ import annotations

import time
from typing import Any

import torch

#: A probe slower than this is not repeated at full batch.
QUICK_SECONDS = 0.25


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def _forward_seconds(pipeline: Any, rows: int, side: int, repeats: int) -> float:
    """Fastest of ``repeats`` U-Net forwards of ``rows`` rows, after one untimed."""
    unet = pipeline.unet
    placement = {"device": unet.device, "dtype": unet.dtype}
    x = torch.zeros(rows, unet.config.in_channels, side, side, **placement)
    tokens = pipeline.tokenizer.model_max_length
    context = torch.zeros(rows, tokens, unet.config.cross_attention_dim, **placement)
    times = []
    for _ in range(repeats + 1):
        began = _now(unet.device)
        unet(x, 500, context)
        times.append(_now(unet.device) - began)
    return min(times[1:])


def seconds_per_evaluation(pipeline: Any, batch: int, side: int) -> float:
    """Seconds of one U-Net evaluation of one image at this batch size: a quick estimate.

    side: height of the latents. Big networks are timed at two rows only.
    """
    small = _forward_seconds(pipeline, 2, side, 1)
    if small > QUICK_SECONDS:
        return small / 2
    return _forward_seconds(pipeline, 2 * batch, side, 2) / (2 * batch)
