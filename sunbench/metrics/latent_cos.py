"""Cosine of an image's final latents with those of its reference image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import ImagePairMetric, Tolerance

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.metrics.networks.network import Network


class LatentCos(ImagePairMetric):
    """How far the sampler moved an image before any decoder saw it; needs no network."""

    name = "latent_cos"
    summary = "cosine of an image's final latents with those of its reference image"
    protocol = "latents before the autoencoder, kept in float16, flattened, cosine in float64"
    reads, better = "latents", "higher"
    tolerance = Tolerance(1e-3)

    def paired_scores(self, images: Tensor, reference: Tensor, network: Network | None) -> Tensor:
        """Cosine of each image's latents with its reference's, (N,)."""
        x, y = (t.double().flatten(1) for t in (images, reference))
        return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))

    def as_distance(self, scores: Floats) -> Floats:
        """1 - cosine."""
        return 1 - scores
