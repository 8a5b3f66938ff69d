"""What feature networks offer; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class Network(Protocol):
    """A feature network, known by weight hash, resize rule and dtype."""

    name: str
    protocol: str
    key: str


@runtime_checkable
class Extractor(Network, Protocol):
    """A network that turns images into features."""

    dim: int

    def embed(self, images: Tensor) -> Tensor:
        """uint8 NCHW -> float32 (N, dim), on the extractor's device."""
        ...


@runtime_checkable
class ClipExtractor(Extractor, Protocol):
    """An extractor that reads text too."""

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts -> float32 (N, dim), not normalized."""
        ...


@runtime_checkable
class LayerNetwork(Network, Protocol):
    """A network whose feature maps can be compared."""

    def layers(self, images: Tensor) -> list[Tensor]:
        """uint8 NCHW -> maps (N, C, H, W), one per layer."""
        ...


@runtime_checkable
class PairNetwork(Network, Protocol):
    """A network with a distance of its own."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """uint8 NCHW, uint8 NCHW -> float32 (N,)."""
        ...


@runtime_checkable
class Classifier(Extractor, Protocol):
    """An extractor whose features have class probabilities."""

    def probabilities(self, features: Tensor) -> Tensor:
        """float32 (N, dim) -> (N, classes)."""
        ...
