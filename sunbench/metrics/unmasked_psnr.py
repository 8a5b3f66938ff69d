"""Inpainting: how far what the mask leaves alone is from what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunbench.metrics.metric import PerImageMetric, Tolerance
from sunbench.metrics.psnr import decibels

if TYPE_CHECKING:
    from torch import Tensor


def unmasked_psnr(images: Tensor, sources: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB of images to their sources over what a mask leaves alone, float64 (N,).

    images, sources: uint8 (N, 3, H, W); mask: (H, W), 1 where it was painted. Range 255, squared
    errors summed as integers, capped at 100 dB, as `psnr`.
    """
    stays = (mask < 0.5).to(images.device)
    gap = (images.int() - sources.to(images.device).int()).square()[:, :, stays]
    return decibels(gap.flatten(1))


class UnmaskedPsnr(PerImageMetric):
    """PSNR to the source image where nothing was painted."""

    name = "unmasked_psnr"
    summary = "inpainting: peak signal-to-noise ratio to the source where nothing was painted, dB"
    protocol = "as psnr, over the pixels that the mask leaves alone"
    compares, reads, better = "source", "sources", "higher"
    tolerance = Tolerance(0.05)
