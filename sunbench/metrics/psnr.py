"""Peak signal-to-noise ratio of paired images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import ImagePairMetric, Tolerance

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.metrics.networks.network import Network

PSNR_IDENTICAL_DB = 100.0


def decibels(squared: Tensor) -> Tensor:
    """PSNR of integer squared errors (N, pixels) at range 255, capped at 100 dB: float64 (N,)."""
    import torch

    mse = squared.sum(1, dtype=torch.int64).cpu().double() / squared.shape[1]
    return (20 * math.log10(255.0) - 10 * mse.log10()).clamp(max=PSNR_IDENTICAL_DB)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 NCHW pairs, float64 (N,) on the CPU.

    Squared errors are summed as integers: exact, where torchmetrics' float32 is 2e-6 dB away and
    gives infinity for equal images. Capped at 100 dB, which stands for identical images,
    so that the mean over images is finite.
    """
    return decibels((a.int() - b.int()).square().flatten(1))


class Psnr(ImagePairMetric):
    """PSNR to the reference image; as a distance, the root mean squared error."""

    name = "psnr"
    summary = "peak signal-to-noise ratio to the reference image of the same index, dB"
    protocol = "per image, range 255, identical images count as 100 dB"
    better = "higher"
    tolerance = Tolerance(0.05)

    def paired_scores(self, images: Tensor, reference: Tensor, network: Network | None) -> Tensor:
        """PSNR of each image, (N,)."""
        return psnr(images, reference)

    def as_distance(self, scores: Floats) -> Floats:
        """Root mean squared error per channel, of 255."""
        rmse = 255.0 * 10 ** (-scores / 20)
        result: Floats = np.where(scores >= PSNR_IDENTICAL_DB, 0.0, rmse)
        return result
