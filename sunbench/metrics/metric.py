"""What a metric is: what it reads, what it compares, which way is better, its number.

A metric is one object in one file. It reads one kind of stored feature per image:

- "embeddings": the features of a network in brackets (`fd`, `kid`, `clip_score`, `cos`);
- "images": nothing stored; its scores are computed while a shard's images and their reference
  images are in memory (`ssim`, `psnr`, `lpips`), and these scores are stored;
- "latents": the same with the final latents, before the autoencoder (`latent_cos`);
- "sources": scores against the source images of a task, stored at sampling (`unmasked_psnr`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.blocks import Rows, together, whole
from sunbench.metrics.estimate import Estimate, Floats, Resampled, resampled_mean, same_length

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.metrics.finite_n import FiniteN
    from sunbench.metrics.networks.network import Network

Reads = Literal["embeddings", "images", "latents", "sources"]
Compares = Literal["sets", "pairs", "text", "alone", "source"]
#: What a network offers: image features, text features, layer maps, or a distance of its own.
Capability = Literal["image", "text", "layers", "distance", "classes"]


@dataclass(frozen=True)
class Tolerance:
    """How far a metric may go before it counts as worse: absolute + relative * |baseline|.

    moved: the same for the mean |difference| per image of a reference and its floor.
    """

    absolute: float
    relative: float = 0.0
    moved: float | None = None

    def limit(self, value: float) -> float:
        """The difference that is still allowed at a baseline's value."""
        return self.absolute + self.relative * abs(value)


@dataclass(frozen=True)
class CellFeatures:
    """What a metric is given of one cell: one row per image, in image order.

    candidate: what the metric reads, or the scores computed with the images. clusters: the prompt
    of each image. reference: the same of the reference cell, for "sets" and "pairs". texts: the
    embedding of each image's prompt, for "text". network: the network in brackets.
    """

    candidate: Rows
    clusters: NDArray[Any]
    reference: Rows | None = None
    texts: NDArray[Any] | None = None
    network: Network | None = None

    def blocks(self) -> Iterator[CellFeatures]:
        """The same, some images at a time, in memory."""
        optional = [r for r in (self.reference, self.texts) if r is not None]
        for candidate, groups, *rest in together((self.candidate, self.clusters, *optional)):
            reference = rest.pop(0) if self.reference is not None else None
            texts = rest.pop(0) if self.texts is not None else None
            yield CellFeatures(candidate, groups, reference, texts, self.network)


@dataclass(frozen=True)
class Measured:
    """A metric of a cell, and the same as a distance with 0 for "the same image", if it is one.

    Divided by the floor's distance, a distance is relative: 1 is another seed of the same prompt.
    """

    value: Resampled
    distance: Resampled | None

    def relative(self, floor: Measured) -> Estimate | None:
        """The distance over the floor's, with the interval of the ratio of means.

        None where there is no distance, or where the floor's is zero.
        """
        if self.distance is None or floor.distance is None:
            return None
        ratio = self.distance.over(floor.distance)
        return None if ratio is None else ratio.estimate()


class Metric(ABC):
    """One metric; `estimate` turns the features of a cell into a number with its interval.

    network: the network meant without brackets. capability: what a network must offer to stand
    in brackets; None where the network is fixed or there is none.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    protocol: ClassVar[str]
    compares: ClassVar[Compares]
    reads: ClassVar[Reads]
    better: ClassVar[Literal["higher", "lower"]]
    tolerance: ClassVar[Tolerance]
    network: ClassVar[str | None] = None
    capability: ClassVar[Capability | None] = None

    @abstractmethod
    def resampled(self, features: CellFeatures) -> Resampled:
        """The value and its bootstrap draws over prompts."""

    def estimate(self, features: CellFeatures) -> Estimate:
        """The value with its 95 % interval."""
        return self.resampled(features).estimate()

    def measured(self, features: CellFeatures) -> Measured:
        """The value, and the same as a distance where there is one."""
        return Measured(self.resampled(features), None)


class SetMetric(Metric):
    """A metric of whole sets of features."""

    compares = "sets"
    reads = "embeddings"
    better = "lower"

    def finite_n(self, features: CellFeatures) -> FiniteN | None:
        """What the value owes to the number of images; None where that is nothing."""
        return None


class PerImageMetric(Metric):
    """A metric with a score per image; its value is their mean."""

    def scores(self, features: CellFeatures) -> Floats:
        """The score of each image, (n,) float64; what is given is in memory."""
        return np.asarray(whole(features.candidate), np.float64)

    def finite_scores(self, features: CellFeatures) -> Floats:
        """`scores`; UserError when one is not finite."""
        scores = np.concatenate([self.scores(part) for part in features.blocks()])
        return finite(scores, self.name)

    def resampled(self, features: CellFeatures) -> Resampled:
        """Mean over images, prompts resampled as clusters."""
        return resampled_mean(self.finite_scores(features), features.clusters)


class PairedMetric(PerImageMetric):
    """A metric of image i against reference image i."""

    compares = "pairs"

    @abstractmethod
    def as_distance(self, scores: Floats) -> Floats:
        """Scores as distances: 0 for the same image, larger for farther."""

    def measured(self, features: CellFeatures) -> Measured:
        """Mean score and mean distance over images."""
        scores = self.finite_scores(features)
        value, distance = (
            resampled_mean(x, features.clusters) for x in (scores, self.as_distance(scores))
        )
        return Measured(value, distance)


class ImagePairMetric(PairedMetric):
    """A paired metric that is computed while both images, or their latents, are in memory."""

    reads: ClassVar[Reads] = "images"

    @abstractmethod
    def paired_scores(self, images: Tensor, reference: Tensor, network: Network | None) -> Tensor:
        """uint8 (N, 3, H, W), uint8 (N, 3, H, W) -> (N,); latents float16 (N, C, h, w)."""


def finite(scores: Floats, name: str) -> Floats:
    """The same scores; UserError that names the first image whose score is not finite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise UserError(
            f"{name}: given {scores[bad[0]]} for image {bad[0]} ({len(bad)} of {len(scores)} images"
            " are not finite), expected finite scores"
        )
    return scores


def wrong_network(name: str, network: Network | None) -> UserError:
    """A network that does not offer what a metric needs."""
    network_text = "no network" if network is None else f"network {network.name}"
    return UserError(f"{name}: given {network_text}, expected one that the metric can use")


def both(features: CellFeatures) -> tuple[Rows, Rows]:
    """Reference and candidate features of one N and one prompt order."""
    if features.reference is None:
        raise UserError("given no reference features, expected those of the reference cell")
    same_length(
        reference=features.reference, candidate=features.candidate, clusters=features.clusters
    )
    return features.reference, features.candidate
