"""Cosine of an image's final latents with those of its reference image."""

from __future__ import annotations

from sunbench.metrics.cosine import cosine
from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import CellFeatures, PairedMetric, Tolerance, both


class LatentCos(PairedMetric):
    """How far the sampler moved an image before any decoder saw it; needs no network."""

    name = "latent_cos"
    summary = "cosine of an image's final latents with those of its reference image"
    protocol = "latents before the autoencoder, kept in float16, flattened, cosine in float64"
    reads, better = "latents", "higher"
    tolerance = Tolerance(1e-3)

    def scores(self, features: CellFeatures) -> Floats:
        """Cosine of each image's latents with its reference's, (n,)."""
        reference, candidate = both(features)
        flat = [x.reshape(len(x), -1) for x in (candidate, reference)]
        return cosine(*flat)

    def as_distance(self, scores: Floats) -> Floats:
        """1 - cosine."""
        return 1 - scores
