"""Feature networks, each imported when it is asked for."""

from sunbench.metrics.networks.network import (
    Classifier,
    ClipExtractor,
    Extractor,
    LayerNetwork,
    Network,
    PairNetwork,
)
from sunbench.metrics.networks.registry import (
    NETWORKS,
    NetworkEntry,
    clip_extractor,
    extractor,
    load_network,
    network_entry,
)

__all__ = [
    "NETWORKS",
    "Classifier",
    "ClipExtractor",
    "Extractor",
    "LayerNetwork",
    "Network",
    "NetworkEntry",
    "PairNetwork",
    "clip_extractor",
    "extractor",
    "load_network",
    "network_entry",
]
