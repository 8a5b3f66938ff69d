"""Conditional convolutions (Yang et al. 2019, arXiv 1904.04971): a kernel mixed for each image.

A-SDM's CLME-CondConv (arXiv 2312.15516, section 2.3) puts them in place of the 3x3 convolutions of
the outermost stages and fills the experts with convolutions of the unpruned network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Of a mixed convolution's tensors, those that a plain one lacks.
EXPERTS, ROUTER = "experts", "router"


class CondConv2d(nn.Module):
    """A convolution whose kernel is a mixture of experts, with weights from the image itself.

    CondConv's weights are r = sigmoid(W z + b) of the pooled input z. Here the first expert's is
    2 r and the others' 2 r - 1, with W and b zero at first: the mixture then is the first expert
    exactly, and the router has a gradient. The bias is one for all experts.

    experts: (e * out, in, k, k), expert by expert, so that they are laid out as any kernel is.
    """

    def __init__(self, like: nn.Conv2d, count: int) -> None:
        super().__init__()
        device, dtype = like.weight.device, like.weight.dtype
        out, width, *kernel = like.weight.shape
        self.count, self.stride, self.padding = count, like.stride, like.padding
        empty = torch.empty(count * out, width, *kernel, device=device, dtype=dtype)
        self.experts = nn.Parameter(empty)
        self.bias = None if like.bias is None else nn.Parameter(torch.empty_like(like.bias))
        self.router = nn.Linear(width, count, device=device, dtype=dtype)

    def routing(self, x: Tensor) -> Tensor:
        """The weight of each expert for each image: (B, e)."""
        shifted = 2 * torch.sigmoid(self.router(x.mean((2, 3)))) - 1
        return shifted + F.one_hot(torch.tensor(0), self.count).to(shifted)

    def kernels(self, x: Tensor) -> Tensor:
        """The mixed kernel of each image: (B, out, in, k, k)."""
        experts = self.experts.unflatten(0, (self.count, -1))
        return torch.einsum("be,eoikl->boikl", self.routing(x), experts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W'), as one grouped convolution with B groups."""
        kernels = self.kernels(x)
        batch, out = kernels.shape[:2]
        grouped = x.reshape(1, -1, *x.shape[2:]).to(kernels.dtype)
        y = F.conv2d(grouped, kernels.flatten(0, 1), None, self.stride, self.padding, groups=batch)
        y = y.reshape(batch, out, *y.shape[2:])
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


def outer_convolutions(unet: Any) -> list[str]:
    """Names of the 3x3 convolutions in the outermost stages' layers, in and out."""
    stages = ("down_blocks.0", f"up_blocks.{len(unet.up_blocks) - 1}")
    return [
        f"{stage}.resnets.{i}.{conv}"
        for stage in stages
        for i in range(len(unet.get_submodule(stage).resnets))
        for conv in ("conv1", "conv2")
    ]


def place_experts(unet: Any, count: int) -> Any:
    """Put mixtures, still without values, in the place of a network's outer convolutions."""
    for name in outer_convolutions(unet):
        layer, _, conv = name.rpartition(".")
        like: Any = unet.get_submodule(name)
        setattr(unet.get_submodule(layer), conv, CondConv2d(like, count))
    return unet
