"""How long a U-Net evaluation takes here."""

from __future__ import annotations

import torch

from sunbench.models.protocols import Pipeline
from sunbench.sampling.stopwatch import Stopwatch

#: A probe slower than this is not repeated at full batch.
QUICK_SECONDS = 0.25
#: Forwards of a probe, of which the fastest counts: whatever interrupts one only makes it slower.
PROBES = 3


@torch.no_grad()
def _forward_seconds(pipeline: Pipeline, rows: int, side: int) -> float:
    """Fastest of several U-Net forwards of ``rows`` rows."""
    unet = pipeline.unet
    placement = {"device": unet.device, "dtype": unet.dtype}
    x = torch.zeros(rows, unet.config.in_channels, side, side, **placement)
    tokens = pipeline.tokenizer.model_max_length
    context = torch.zeros(rows, tokens, unet.config.cross_attention_dim, **placement)
    stopwatch, spans = Stopwatch(unet.device), []
    for _ in range(PROBES):
        began = stopwatch.mark()
        unet(x, 500, context)
        spans.append((began, stopwatch.mark()))
    stopwatch.synchronize()
    return min(began.until(end) for began, end in spans)


def seconds_per_evaluation(pipeline: Pipeline, batch: int, side: int) -> float:
    """Seconds of one U-Net evaluation of one image at this batch size: a quick estimate.

    side: height of the latents. Big networks are timed at two rows only.
    """
    small = _forward_seconds(pipeline, 2, side)
    if small > QUICK_SECONDS:
        return small / 2
    return _forward_seconds(pipeline, 2 * batch, side) / (2 * batch)
