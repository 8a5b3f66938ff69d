"""Pillow's antialiased bicubic resize as two matrix products, R X R^T, on any device.

Source: Parmar et al. 2022 (clean-fid, arXiv 2104.11222), section 3; the kernel is Keys 1981, eq. 4
with a = -1/2, stretched by the reduction as Pillow does. 1e-4 of 255 from Pillow in float.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel with a = -1/2."""
    t = np.abs(x)
    inner = (1.5 * t - 2.5) * t**2 + 1
    outer = -0.5 * (((t - 5) * t + 8) * t - 4)
    return np.where(t < 1, inner, np.where(t < 2, outer, 0.0))


@lru_cache(maxsize=64)
def bicubic_matrix(size: int, new: int) -> NDArray[np.float64]:
    """R (new, size): each row the normalized weights of one output pixel."""
    scale = size / new
    stretch = max(scale, 1.0)
    center = (np.arange(new) + 0.5)[:, None] * scale
    first = np.floor(np.maximum(center - 2 * stretch + 0.5, 0))
    last = np.minimum(np.floor(center + 2 * stretch + 0.5), size)
    x = np.arange(size)[None, :]
    weights = _keys((x - center + 0.5) / stretch) * ((x >= first) & (x < last))
    result: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return result


def _matrices(images: Tensor, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    pairs = ((images.shape[-2], height), (images.shape[-1], width))
    vertical, horizontal = (
        torch.from_numpy(bicubic_matrix(*p)).to(device=images.device, dtype=dtype) for p in pairs
    )
    return vertical, horizontal


def clean_resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 (N, C, H, W) -> float32 (N, C, height, width) in 0..255, clipped, not rounded."""
    x = images.float()
    if tuple(images.shape[-2:]) == (height, width):
        return x
    vertical, horizontal = _matrices(images, height, width, torch.float32)
    return (vertical @ (x @ horizontal.T)).clamp(0, 255)


def pillow_resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 -> uint8 as Pillow resizes 8-bit images: rounded after each of its two passes.

    Across first, then down. Pillow may swap the passes when one axis shrinks and the other grows,
    which no CLIP transform asks for.
    """
    vertical, horizontal = _matrices(images, height, width, torch.float64)
    rows = (images.double() @ horizontal.T + 0.5).floor().clamp(0, 255)
    return (vertical @ rows + 0.5).floor().clamp(0, 255).to(torch.uint8)
