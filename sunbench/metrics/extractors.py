"""Feature networks by name; each family is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sunbench.errors import unknown
from sunbench.metrics.registry import NETS

if TYPE_CHECKING:
    from sunbench.metrics.backbone import ClipExtractor, Extractor
    from sunbench.metrics.consistency import Perceptual


def extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor called "zoo-clip", "inception", "dinov2/..." or "open-clip/...".

    UserError for an unknown name, NotAvailable when weights are out of reach.
    """
    if name == "inception":
        from sunbench.metrics.inception import Inception, fetch_weights

        return Inception(fetch_weights(), device)
    if name.startswith("dinov2/"):
        from sunbench.metrics.dinov2 import load_dinov2

        return load_dinov2(name, device)
    return clip_extractor(name, device)


def clip_extractor(name: str, device: str = "cpu") -> ClipExtractor:
    """An extractor that embeds text too: "zoo-clip" or "open-clip/...". Errors as `extractor`."""
    if name == "zoo-clip":
        from sunbench.metrics.zoo_clip import ZooClip
        from sunbench.zoo import folder

        return ZooClip(folder("scorer"), device)
    if name.startswith("open-clip/"):
        from sunbench.metrics.open_clip_ import load_open_clip

        return load_open_clip(name, device)
    raise unknown("extractor", name, NETS)


def perceptual(name: str, device: str = "cpu") -> Perceptual:
    """The distance of lpips[name]: "alex", "vgg" or "zoo-clip". Errors as `extractor`."""
    if name in ("alex", "vgg"):
        from sunbench.metrics.lpips import LearnedLpips

        return LearnedLpips("alex" if name == "alex" else "vgg", device)
    if name != "zoo-clip":
        raise unknown("perceptual distance", name, ("alex", "vgg", "zoo-clip"))
    return cast("Perceptual", extractor(name, device))
