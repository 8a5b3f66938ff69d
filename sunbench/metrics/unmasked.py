"""Inpainting: how far what was to stay is from what it was."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sunbench.metrics.consistency import PSNR_IDENTICAL_DB


def unmasked_psnr(images: Tensor, sources: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB of pictures to their sources over what a mask leaves alone, float64 (N,).

    images, sources: uint8 (N, 3, H, W); mask: (H, W), 1 where it was painted. Range 255, squared
    errors summed as integers, capped at 100 dB, as ``consistency.psnr``.
    """
    stays = (mask < 0.5).to(images.device)
    gap = (images.int() - sources.to(images.device).int()).square()[:, :, stays]
    mse = gap.flatten(1).sum(1).cpu().double() / gap[0].numel()
    return (20 * np.log10(255.0) - 10 * mse.log10()).clamp(max=PSNR_IDENTICAL_DB)
