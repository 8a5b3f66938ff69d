"""CLIP score: how well an image shows its prompt."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.blocks import whole
from sunbench.metrics.cosine import cosine
from sunbench.metrics.estimate import Floats
from sunbench.metrics.metric import CellFeatures, PerImageMetric, Tolerance

CLIP_DEFAULT = "open-clip/ViT-g-14/laion2b_s34b_b88k"


def clip_score(image_embeddings: NDArray[Any], text_embeddings: NDArray[Any]) -> Floats:
    """100 times the cosine of image and prompt, (n,): no prefix, no clamp at zero.

    Source: as reported by BK-SDM (arXiv 2305.15798), times 100; Hessel et al. 2021 scale by 2.5.
    """
    return 100 * cosine(image_embeddings, text_embeddings)


class ClipScore(PerImageMetric):
    """Mean CLIP score of a cell's images with their own prompts."""

    name = "clip_score"
    summary = "cosine of image and prompt embeddings"
    protocol = "x100, no prefix, no clamp, end-of-text token kept when truncating"
    compares, reads, better = "text", "embeddings", "higher"
    tolerance = Tolerance(0.05, moved=0.1)
    network, capability = CLIP_DEFAULT, "text"

    def scores(self, features: CellFeatures) -> Floats:
        """The CLIP score of each image, (n,)."""
        if features.texts is None:
            raise UserError("given no text embeddings, expected one per image")
        return clip_score(whole(features.candidate), features.texts)
