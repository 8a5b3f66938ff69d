"""The networks that a run's metrics need, each loaded once, and why one could not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sunbench.metrics import NotAvailable, clip_extractor, consistency, extractor, perceptual
from sunbench.metrics.registry import MetricChoice, find

#: Columns of the feature "pixels".
PIXELS = ("ssim", "psnr")


@dataclass(frozen=True)
class Probes:
    """Feature networks by name, and the reason for each metric that lacks its network."""

    choices: tuple[MetricChoice, ...]
    embedders: dict[str, Any] = field(default_factory=dict)
    perceptuals: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, metrics: tuple[str, ...], device: str) -> Probes:
        """Load what the metrics need; a network out of reach becomes a reason."""
        probes = cls(tuple(find(name) for name in metrics))
        for choice in probes.choices:
            try:
                probes._load(choice, device)
            except NotAvailable as error:
                probes.reasons[choice.label] = str(error)
        return probes

    def _load(self, choice: MetricChoice, device: str) -> None:
        name, net = choice.metric.name, choice.net
        if net is None:
            return
        if name == "lpips":
            if net not in self.perceptuals:
                shared = self.embedders.get(net)
                self.perceptuals[net] = shared or perceptual(net, device)
        elif net not in self.embedders:
            make = clip_extractor if choice.metric.nets == "clip" else extractor
            self.embedders[net] = self.perceptuals.get(net) or make(net, device)

    # ------------------------------------------------------------------------- features

    def embedding(self, net: str) -> str:
        """Feature name of a network's embeddings; its weights' key is part of it."""
        return f"embed-{net}-{self.embedders[net].key[:8]}"

    def embed(self, images: Tensor, batch: int) -> dict[str, np.ndarray]:
        """Every embedding of pictures (N, 3, H, W) uint8, by feature name."""
        out = {}
        for net, network in self.embedders.items():
            parts = [network.embed(x).cpu().numpy() for x in images.split(batch)]
            out[self.embedding(net)] = np.concatenate(parts)
        return out

    def paired_names(self, reference: str) -> dict[str, str]:
        """Metric -> feature name of its scores against the reference cell of this key."""
        names = {m: f"paired-{reference[:12]}-pixels" for m in PIXELS}
        for net, network in self.perceptuals.items():
            names[f"lpips[{net}]"] = f"paired-{reference[:12]}-lpips-{net}-{network.key[:8]}"
        return names

    def paired(
        self, images: Tensor, theirs: Tensor, reference: str, batch: int
    ) -> dict[str, np.ndarray]:
        """Every paired score of pictures against their references, by feature name."""
        names = self.paired_names(reference)
        pairs = list(zip(images.split(batch), theirs.split(batch), strict=True))
        pixels = [
            torch.stack([consistency.ssim(a, b), consistency.psnr(a, b)], 1).cpu().numpy()
            for a, b in pairs
        ]
        out = {names["ssim"]: np.concatenate(pixels)}
        for net, network in self.perceptuals.items():
            scores = [network.distance(a, b).cpu().numpy() for a, b in pairs]
            out[names[f"lpips[{net}]"]] = np.concatenate(scores)
        return out
