"""LPIPS: learned perceptual distance of paired images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import ImagePairMetric, Tolerance, wrong_network
from sunbench.metrics.networks.network import PairNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.metrics.networks.network import Network


class Lpips(ImagePairMetric):
    """LPIPS to the reference image, with its learned heads."""

    name = "lpips"
    summary = "learned perceptual distance to the reference image of the same index"
    protocol = "torchmetrics, heads v0.1"
    better = "lower"
    tolerance = Tolerance(1e-3, 0.01)
    network, capability = "alex", "distance"

    def paired_scores(self, images: Tensor, reference: Tensor, network: Network | None) -> Tensor:
        """LPIPS of each image, (N,)."""
        if not isinstance(network, PairNetwork):
            raise wrong_network(self.name, network)
        return network.distance(images, reference)

    def as_distance(self, scores: Floats) -> Floats:
        """LPIPS itself."""
        return scores
