"""Structural similarity of paired images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sunbench.errors import UserError
from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import ImagePairMetric, Tolerance

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.metrics.networks.network import Network


RADIUS, SIGMA = 5, 1.5
#: Pixels that a CPU works on at once: their maps stay in its cache.
PIXELS = 2**18


def _blurred(x: Tensor) -> Tensor:
    """The Gaussian window along rows and columns of (..., H, W), borders mirrored.

    Sums of shifted images: the window is short, so this is several times as fast as a product.
    """
    from torch.nn.functional import pad

    *_, height, width = x.shape
    weights = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    first, *others = (weights / weights.sum()).tolist()
    x = pad(x, (RADIUS,) * 4, mode="reflect")
    rows = x[..., :height, :] * first
    for k, weight in enumerate(others, 1):
        rows.add_(x[..., k : k + height, :], alpha=weight)
    out = rows[..., :width] * first
    for k, weight in enumerate(others, 1):
        out.add_(rows[..., k : k + width], alpha=weight)
    return out


def _planes_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of single-channel uint8 pairs (N, H, W), (N,)."""
    x, y = a.float() / 255 - 0.5, b.float() / 255 - 0.5
    mu_x, mu_y, squares, xy = map(_blurred, (x, y, x.square().add_(y.square()), x * y))
    variances = (squares - mu_x.square() - mu_y.square()).clamp_(min=0)
    m_x, m_y, c1, c2 = mu_x + 0.5, mu_y + 0.5, 0.01**2, 0.03**2
    luminance = (2 * m_x * m_y + c1) / (m_x.square() + m_y.square() + c1)
    structure = (2 * (xy - mu_x * mu_y) + c2) / (variances + c2)
    return (luminance * structure).flatten(1).mean(1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 NCHW pairs, (N,): Gaussian window 11, sigma 1.5, mean RGB.

    Second moments are taken about mid-gray: 4e-7 from torchmetrics in float64, whose own float32 is
    up to 8e-6 away.
    Source: Wang et al. 2004, eq. 13, with K1 = 0.01, K2 = 0.03 and mirrored borders.
    """
    import torch

    height, width = a.shape[-2:]
    if min(height, width) <= RADIUS:
        raise UserError(
            f"given images of {min(height, width)} pixels, expected at least {RADIUS + 1} for SSIM"
        )
    count = (
        max(1, PIXELS // (height * width)) if a.device.type == "cpu" else a.shape[0] * a.shape[1]
    )
    planes = zip(*(x.flatten(0, 1).split(count) for x in (a, b)), strict=True)
    return torch.cat([_planes_ssim(x, y) for x, y in planes]).view(a.shape[:2]).mean(1)


class Ssim(ImagePairMetric):
    """SSIM to the reference image; as a distance, 1 - SSIM."""

    name = "ssim"
    summary = "structural similarity to the reference image of the same index"
    protocol = "Gaussian window 11, sigma 1.5, mean over RGB and pixels, range 255"
    better = "higher"
    tolerance = Tolerance(2e-3)

    def paired_scores(self, images: Tensor, reference: Tensor, network: Network | None) -> Tensor:
        """SSIM of each image, (N,)."""
        return ssim(images, reference)

    def as_distance(self, scores: Floats) -> Floats:
        """1 - SSIM."""
        return 1 - scores
