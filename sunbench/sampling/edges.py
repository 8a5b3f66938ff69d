"""Edges of images, as a ControlNet on edges is trained with and given them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: A step of this share of the luminance range is an edge.
THRESHOLD = 0.1

#: For a cell's key.
FILTER = f"Sobel on luminance, threshold {THRESHOLD}"


def edges(images: Tensor) -> Tensor:
    """Edges of images (N, 3, H, W) uint8: float32 of the same shape, 1 on an edge, else 0.

    The gradient of the luminance 0.299 R + 0.587 G + 0.114 B by Sobel's filter, scaled so that a
    step from black to white measures 1, borders repeated; an edge is where its length passes the
    threshold. Nothing is thinned or linked, unlike Canny's.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device) / 255
    y = torch.einsum("nchw,c->nhw", images.float(), weights)[:, None]
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernels = torch.stack([across, across.T])[:, None].to(y)
    gradient = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), kernels)
    strong = gradient.square().sum(1, keepdim=True) > THRESHOLD**2
    return strong.float().expand(-1, 3, -1, -1).contiguous()
