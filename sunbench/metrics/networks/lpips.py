"""LPIPS with its learned heads, through torchmetrics."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from sunbench.metrics.networks.availability import fetching
from sunbench.metrics.networks.backbone import frozen, full_precision, weights_key


def load_lpips(name: str, device: str = "cpu") -> LearnedLpips:
    """LPIPS on "alex" or "vgg"; the backbone is fetched on first use."""
    return LearnedLpips("alex" if name == "alex" else "vgg", device)


class LearnedLpips:
    """LPIPS of Zhang et al. 2018 with heads v0.1; the ImageNet backbone comes over the network."""

    def __init__(self, net: Literal["alex", "vgg"], device: str = "cpu") -> None:
        self.name: str = net
        self.device = device
        self.protocol = f"LPIPS v0.1 {net} (torchmetrics), no resize, pixels in -1..1, float32"
        with fetching(f"torchvision's {net} for LPIPS"):
            metric = LearnedPerceptualImagePatchSimilarity(net_type=net)
        self.net = frozen(metric.net, device)
        self.key = weights_key(self.net, self.protocol)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """uint8 NCHW, uint8 NCHW -> float32 (N,)."""
        with full_precision():
            x, y = (t.to(self.device).float() / 127.5 - 1 for t in (a, b))
            result: Tensor = self.net(x, y).flatten()
        return result
