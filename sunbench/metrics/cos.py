"""Cosine of an image's embedding with that of its reference image."""

from __future__ import annotations

from sunbench.metrics.blocks import whole
from sunbench.metrics.clip_score import CLIP_DEFAULT
from sunbench.metrics.cosine import cosine
from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import CellFeatures, PairedMetric, Tolerance, both


class Cos(PairedMetric):
    """Follows content more than detail on CLIP."""

    name = "cos"
    summary = "cosine of an image's embedding with that of its reference image"
    protocol = "embeddings of the network in brackets, in float64"
    reads, better = "embeddings", "higher"
    tolerance = Tolerance(1e-3)
    network, capability = CLIP_DEFAULT, "image"

    def scores(self, features: CellFeatures) -> Floats:
        """Cosine of each image with its reference image, (n,)."""
        reference, candidate = both(features)
        return cosine(whole(candidate), whole(reference))

    def as_distance(self, scores: Floats) -> Floats:
        """1 - cosine."""
        return 1 - scores
