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


def _blurred(x: Tensor) -> Tensor:
    """The Gaussian window along rows and columns of (..., C, H, W), borders mirrored.

    Sums of shifted images: the window is short, so this is several times as fast as a product.
    """
    from torch.nn.functional import pad

    *_, height, width = x.shape
    taps = np.exp(-(np.arange(RADIUS + 1) ** 2) / (2 * SIGMA**2))
    taps = (taps / (2 * taps.sum() - taps[0])).tolist()
    x = pad(x, (RADIUS,) * 4, mode="reflect")
    rows = x[..., RADIUS:-RADIUS, :] * taps[0]
    for k in range(1, RADIUS + 1):
        low, high = RADIUS - k, RADIUS + k
        rows += (x[..., low : low + height, :] + x[..., high : high + height, :]) * taps[k]
    out = rows[..., RADIUS:-RADIUS] * taps[0]
    for k in range(1, RADIUS + 1):
        low, high = RADIUS - k, RADIUS + k
        out += (rows[..., low : low + width] + rows[..., high : high + width]) * taps[k]
    return out


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 NCHW pairs, (N,): Gaussian window 11, sigma 1.5, mean RGB.

    Second moments are taken about mid-gray: 4e-7 from torchmetrics in float64, whose own float32 is
    up to 8e-6 away.
    Source: Wang et al. 2004, eq. 13, with K1 = 0.01, K2 = 0.03 and mirrored borders.
    """
    if min(a.shape[-2:]) <= RADIUS:
        side = min(a.shape[-2:])
        raise UserError(f"given images of {side} pixels, expected at least {RADIUS + 1} for SSIM")
    x, y = a.float() / 255 - 0.5, b.float() / 255 - 0.5
    mu_x, mu_y, xx, yy, xy = map(_blurred, (x, y, x.square(), y.square(), x * y))
    var_x, var_y = (xx - mu_x.square()).clamp(min=0), (yy - mu_y.square()).clamp(min=0)
    m_x, m_y, c1, c2 = mu_x + 0.5, mu_y + 0.5, 0.01**2, 0.03**2
    luminance = (2 * m_x * m_y + c1) / (m_x.square() + m_y.square() + c1)
    structure = (2 * (xy - mu_x * mu_y) + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


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
