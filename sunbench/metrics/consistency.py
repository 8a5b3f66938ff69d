"""How far pictures moved: paired scores of picture i against reference i."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.metrics.backbone import checked, full_precision
from sunbench.metrics.estimate import Floats

PSNR_IDENTICAL_DB = 100.0


class Perceptual(Protocol):
    """A perceptual distance between pictures of the same index."""

    name: str

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """uint8 NCHW, uint8 NCHW -> float32 (N,)."""
        ...


@lru_cache(maxsize=16)
def _blur(size: int, sigma: float = 1.5, radius: int = 5) -> Tensor:
    """Gaussian window with mirrored borders as a matrix (size, size)."""
    if size <= radius:
        raise UserError(f"given pictures of {size} pixels, expected at least {radius + 1} for SSIM")
    taps = np.arange(-radius, radius + 1)
    g = np.exp(-(taps**2) / (2 * sigma**2))
    at = np.abs(np.arange(size)[:, None] + taps)
    at = np.where(at >= size, 2 * (size - 1) - at, at)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], at), g / g.sum())
    return torch.from_numpy(matrix)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 NCHW pairs, (N,): Gaussian window 11, sigma 1.5, mean RGB.

    Second moments are taken about mid-grey, which changes nothing but the rounding.
    Source: Wang et al. 2004, eq. 13, with K1 = 0.01, K2 = 0.03 and mirrored borders.
    """
    x, y = a.float() / 255 - 0.5, b.float() / 255 - 0.5
    rows, columns = (_blur(n).to(x) for n in x.shape[-2:])
    mu_x, mu_y, xx, yy, xy = (rows @ (t @ columns.T) for t in (x, y, x.square(), y.square(), x * y))
    var_x, var_y = (xx - mu_x.square()).clamp(min=0), (yy - mu_y.square()).clamp(min=0)
    m_x, m_y, c1, c2 = mu_x + 0.5, mu_y + 0.5, 0.01**2, 0.03**2
    luminance = (2 * m_x * m_y + c1) / (m_x.square() + m_y.square() + c1)
    structure = (2 * (xy - mu_x * mu_y) + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 NCHW pairs, float64 (N,) on the CPU.

    Squared errors are summed as integers. Capped at 100 dB, which stands for identical pictures,
    so that the mean over images is finite.
    """
    total = (a.int() - b.int()).square().flatten(1).sum(1, dtype=torch.int64).cpu().double()
    mse = total / a[0].numel()
    return (20 * np.log10(255.0) - 10 * mse.log10()).clamp(max=PSNR_IDENTICAL_DB)


def layer_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """LPIPS without learned heads over layers of (N, C, H, W): sum over layers, (N,).

    Features are made unit length over channels, squared differences summed over channels and
    averaged over positions. Source: Zhang et al. 2018 (arXiv 1801.03924), eq. 1 with w = 1.
    """

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()

    pairs = zip(a, b, strict=True)
    return torch.stack([(unit(x) - unit(y)).square().sum(1).mean((1, 2)) for x, y in pairs]).sum(0)


def _score(f: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, size: int) -> Floats:
    """f over at most `size` pairs at a time, as float64 numpy (N,)."""
    parts = zip(a.split(size), b.split(size), strict=True)
    with full_precision():
        return torch.cat([f(x, y).cpu().double() for x, y in parts]).numpy()


def paired(
    a: Tensor, b: Tensor, perceptual: Perceptual | None = None, *, size: int = 64
) -> dict[str, Floats]:
    """Every paired score of pictures `a` against references `b`, both uint8 (N, 3, H, W).

    Keys: "ssim", "psnr" and, with a perceptual distance (an extractor with layers, or
    `lpips.LearnedLpips`), "lpips[<its name>]"; values: float64 (N,). UserError unless shapes agree.
    """
    if checked(a).shape != checked(b).shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise UserError(f"given pictures of {shapes}, expected pairs of one shape")
    scores = {"ssim": _score(ssim, a, b, size), "psnr": _score(psnr, a, b, size)}
    if perceptual is not None:
        scores[f"lpips[{perceptual.name}]"] = _score(perceptual.distance, a, b, size)
    return scores
