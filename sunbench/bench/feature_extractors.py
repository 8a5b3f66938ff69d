"""What a run's metrics read of each image: feature networks loaded once, and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sunbench.errors import UserError
from sunbench.metrics import ImagePairMetric, NotAvailable, find_metric, load_network
from sunbench.metrics.networks import Extractor, Network
from sunbench.metrics.networks.backbone import checked, full_precision
from sunbench.metrics.registry import MetricChoice

T = TypeVar("T", np.float32, np.float64)

#: What paired metrics read ("images", "latents"), of a cell and of its reference.
Pairs = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FeatureExtractors:
    """Feature networks by name, and the reason for each metric that lacks its network."""

    choices: tuple[MetricChoice, ...]
    networks: dict[str, Network] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, metrics: tuple[str, ...], device: str) -> FeatureExtractors:
        """Load what the metrics need; a network that cannot be had becomes a reason."""
        extractors = cls(tuple(find_metric(name) for name in metrics))
        for choice in extractors.choices:
            try:
                if choice.net is not None and choice.net not in extractors.networks:
                    extractors.networks[choice.net] = load_network(choice.net, device)
            except NotAvailable as error:
                extractors.reasons[choice.label] = str(error)
        return extractors

    # ------------------------------------------------------------------------- names

    def network(self, choice: MetricChoice) -> Network | None:
        """The loaded network of a choice, if it has one."""
        return None if choice.net is None else self.networks.get(choice.net)

    def feature_key(self, choice: MetricChoice) -> str:
        """Hash of the weights and protocol behind a choice's values, "" without a network."""
        network = self.network(choice)
        return "" if network is None else network.key

    def feature(self, choice: MetricChoice, reference: str) -> str:
        """Name of the stored feature that a choice reads, of a cell paired with this reference."""
        return choice.feature_name(self.feature_key(choice), reference)

    def embedded(self) -> dict[str, Extractor]:
        """Networks whose embeddings are stored, by feature name."""
        features = {}
        for choice in self._readers("embeddings"):
            network = self.network(choice)
            if isinstance(network, Extractor):
                features[self.feature(choice, "")] = network
        return features

    def paired_names(self, reference: str) -> dict[str, str]:
        """Metric -> feature name of its scores against the reference cell of this key."""
        readers = self._readers("images", "latents")
        return {c.label: self.feature(c, reference) for c in readers}

    def _readers(self, *reads: str) -> list[MetricChoice]:
        """Choices that read one of these and have their network."""
        return [c for c in self.choices if c.metric.reads in reads and c.label not in self.reasons]

    # ------------------------------------------------------------------------- arrays

    def embed(self, images: Tensor, batch: int) -> dict[str, NDArray[np.float32]]:
        """Every embedding of images (N, 3, H, W) uint8, by feature name."""
        out = {}
        for name, network in self.embedded().items():
            parts = [network.embed(x).cpu().numpy() for x in images.split(batch)]
            out[name] = _finite(np.concatenate(parts), name)
        return out

    def paired(self, pairs: Pairs, reference: str, batch: int) -> dict[str, NDArray[np.float64]]:
        """Every paired score of images and latents against their references, by feature name."""
        for images in pairs.get("images", ()):
            checked(images)
        for kind, (mine, theirs) in pairs.items():
            if mine.shape != theirs.shape:
                shapes = f"{tuple(mine.shape)} and {tuple(theirs.shape)}"
                raise UserError(f"given {kind} of {shapes}, expected pairs of one shape")
        out = {}
        for choice in self._readers(*pairs):
            metric, network = choice.metric, self.network(choice)
            assert isinstance(metric, ImagePairMetric)
            blocks = zip(*(x.split(batch) for x in pairs[metric.reads]), strict=True)
            with full_precision():
                parts = [metric.paired_scores(a, b, network).double().cpu() for a, b in blocks]
            name = self.feature(choice, reference)
            out[name] = _finite(torch.cat(parts).numpy(), name)
        return out


def _finite(table: NDArray[T], name: str) -> NDArray[T]:
    bad = np.flatnonzero(~np.isfinite(table).reshape(len(table), -1).all(1))
    if len(bad):
        raise UserError(
            f"{name}: given features that are not finite for {len(bad)} of {len(table)} images"
            f" (the first is image {bad[0]} of its shard), expected finite ones"
        )
    return table
