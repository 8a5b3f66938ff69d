"""Feature networks by name; imports no torch, each family is imported when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from sunbench.errors import UserError, unknown
from sunbench.metrics.networks.network import ClipExtractor as _Clip
from sunbench.metrics.networks.network import Extractor, Network


@dataclass(frozen=True)
class NetworkEntry:
    """A row of the table of networks: where it is loaded, what it offers, what it is."""

    target: str  # "module:callable(name, device)"
    offers: frozenset[str]
    summary: str


_HERE = "sunbench.metrics.networks"
_DINO = (f"{_HERE}.dinov2:load_dinov2", frozenset({"image"}))
_CLIP = (f"{_HERE}.open_clip_:load_open_clip", frozenset({"image", "text"}))
_LPIPS = (f"{_HERE}.lpips:load_lpips", frozenset({"distance"}))

NETWORKS = {
    "zoo-clip": NetworkEntry(
        f"{_HERE}.zoo_clip:load_zoo_clip",
        frozenset({"image", "text", "layers", "classes"}),
        "the zoo's own small CLIP, 64x64; always available",
    ),
    "inception": NetworkEntry(
        f"{_HERE}.inception:load_inception",
        frozenset({"image", "classes"}),
        "Inception v3 of 2015-12-05, 2048 features, clean resize",
    ),
    "dinov2/vits14": NetworkEntry(*_DINO, "DINOv2 ViT-S/14 class token"),
    "dinov2/vitb14": NetworkEntry(*_DINO, "DINOv2 ViT-B/14 class token"),
    "dinov2/vitl14": NetworkEntry(*_DINO, "DINOv2 ViT-L/14 class token"),
    "dinov2/vitg14": NetworkEntry(*_DINO, "DINOv2 ViT-g/14 class token"),
    "open-clip/ViT-g-14/laion2b_s34b_b88k": NetworkEntry(
        *_CLIP, "open_clip ViT-g/14, the default CLIP score of real models"
    ),
    "open-clip/ViT-g-14/laion2b_s12b_b42k": NetworkEntry(
        *_CLIP, "open_clip ViT-g/14, the other checkpoint"
    ),
    "open-clip/ViT-L-14/openai": NetworkEntry(*_CLIP, "OpenAI's CLIP ViT-L/14"),
    "open-clip/ViT-B-32/openai": NetworkEntry(*_CLIP, "OpenAI's CLIP ViT-B/32"),
    "alex": NetworkEntry(*_LPIPS, "LPIPS on AlexNet, learned heads v0.1"),
    "vgg": NetworkEntry(*_LPIPS, "LPIPS on VGG-16, learned heads v0.1"),
}


def network_entry(name: str) -> NetworkEntry:
    """The network's row; any other model of open_clip and DINOv2 is asked of their loaders."""
    if name in NETWORKS:
        return NETWORKS[name]
    for prefix, row in (("open-clip/", _CLIP), ("dinov2/", _DINO)):
        if name.startswith(prefix):
            return NetworkEntry(*row, name)
    raise unknown("network", name, NETWORKS)


def load_network(name: str, device: str = "cpu") -> Network:
    """The network of that name.

    UserError for an unknown name, NotAvailable when its weights cannot be had.
    """
    module, _, attribute = network_entry(name).target.partition(":")
    network: Network = getattr(import_module(module), attribute)(name, device)
    return network


def extractor(name: str, device: str = "cpu") -> Extractor:
    """A network that turns images into features. Errors as `load_network`."""
    network = _offering(name, "image", device)
    assert isinstance(network, Extractor)
    return network


def clip_extractor(name: str, device: str = "cpu") -> _Clip:
    """An extractor that reads text too. Errors as `load_network`."""
    network = _offering(name, "text", device)
    assert isinstance(network, _Clip)
    return network


def _offering(name: str, capability: str, device: str) -> Network:
    if capability not in network_entry(name).offers:
        known = [n for n, entry in NETWORKS.items() if capability in entry.offers]
        raise UserError(f"given network {name}, expected one with {capability}: {', '.join(known)}")
    return load_network(name, device)
