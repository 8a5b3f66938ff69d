"""Perceptual distance: LPIPS' construction on any network's layers, without learned heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import ImagePairMetric, Tolerance, wrong_network
from sunbench.metrics.networks.network import LayerNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.metrics.networks.network import Network


def layer_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """LPIPS without learned heads over layers of (N, C, H, W): sum over layers, (N,).

    Features are made unit length over channels, squared differences summed over channels and
    averaged over positions. Source: Zhang et al. 2018 (arXiv 1801.03924), eq. 1 with w = 1.
    """
    import torch

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()

    pairs = zip(a, b, strict=True)
    return torch.stack([(unit(x) - unit(y)).square().sum(1).mean((1, 2)) for x, y in pairs]).sum(0)


class Perceptual(ImagePairMetric):
    """Distance of feature maps; no study with people stands behind it."""

    name = "perceptual"
    summary = "distance of a network's feature maps to those of the reference image"
    protocol = "LPIPS' construction without its learned heads (eq. 1 with w = 1), all layers"
    better = "lower"
    tolerance = Tolerance(1e-3, 0.01)
    network, capability = "zoo-clip", "layers"

    def paired_scores(self, images: Tensor, reference: Tensor, network: Network | None) -> Tensor:
        """Perceptual distance of each image, (N,)."""
        if not isinstance(network, LayerNetwork):
            raise wrong_network(self.name, network)
        return layer_distance(network.layers(images), network.layers(reference))

    def as_distance(self, scores: Floats) -> Floats:
        """The distance itself."""
        return scores
