"""Names of metrics and feature networks, with what each means; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sunbench.errors import UserError, unknown

CLIP_DEFAULT = "open-clip/ViT-g-14/laion2b_s34b_b88k"

NETS = {
    "zoo-clip": "the zoo's own small CLIP, 64x64; always at hand",
    "inception": "Inception v3 of 2015-12-05, 2048 features, clean resize",
    "dinov2/vits14": "DINOv2 ViT-S/14 class token",
    "dinov2/vitb14": "DINOv2 ViT-B/14 class token",
    "dinov2/vitl14": "DINOv2 ViT-L/14 class token",
    "dinov2/vitg14": "DINOv2 ViT-g/14 class token",
    CLIP_DEFAULT: "open_clip ViT-g/14, the default CLIP score of real models",
    "open-clip/ViT-g-14/laion2b_s12b_b42k": "open_clip ViT-g/14, the other checkpoint",
    "open-clip/ViT-L-14/openai": "OpenAI's CLIP ViT-L/14",
    "open-clip/ViT-B-32/openai": "OpenAI's CLIP ViT-B/32",
}


@dataclass(frozen=True)
class Metric:
    """One metric: what it says, how it is computed, what it compares, which way is better."""

    name: str
    summary: str
    protocol: str
    compares: Literal["sets", "pairs", "text", "alone", "source"]
    better: Literal["higher", "lower"]
    net: str | None = None
    nets: Literal["any", "clip", "lpips", "fixed"] = "fixed"


@dataclass(frozen=True)
class MetricChoice:
    """A metric with the network it is asked for with."""

    metric: Metric
    net: str | None

    @property
    def label(self) -> str:
        """The column's name: "fid", "fd[zoo-clip]", "ssim"."""
        return (
            self.metric.name if self.metric.nets == "fixed" else f"{self.metric.name}[{self.net}]"
        )


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "fid",
            "Frechet distance of Inception features to the reference set",
            "Inception-2048 (2015-12-05), clean resize, float64 eigen form, equal N",
            "sets",
            "lower",
            "inception",
        ),
        Metric(
            "fd",
            "Frechet distance to the reference set on a named network",
            "as fid, on the network in brackets with its own resize",
            "sets",
            "lower",
            "zoo-clip",
            "any",
        ),
        Metric(
            "kid",
            "kernel distance to the reference set on a named network",
            "unbiased squared MMD, (x.y / d + 1)^3, over all pairs, equal N",
            "sets",
            "lower",
            "inception",
            "any",
        ),
        Metric(
            "inception_score",
            "exp of the mean KL divergence of class probabilities from their marginal",
            "Inception logits without bias, clean resize, 10 splits of a seeded permutation",
            "alone",
            "higher",
            "inception",
        ),
        Metric(
            "clip_score",
            "cosine of picture and prompt embeddings",
            "x100, no prefix, no clamp, end-of-text token kept when truncating",
            "text",
            "higher",
            CLIP_DEFAULT,
            "clip",
        ),
        Metric(
            "lpips",
            "perceptual distance to the reference picture of the same index",
            "alex, vgg: torchmetrics, heads v0.1; zoo-clip: normalised layers, no learned heads",
            "pairs",
            "lower",
            "alex",
            "lpips",
        ),
        Metric(
            "ssim",
            "structural similarity to the reference picture of the same index",
            "Gaussian window 11, sigma 1.5, mean over RGB and pixels, range 255",
            "pairs",
            "higher",
        ),
        Metric(
            "psnr",
            "peak signal-to-noise ratio to the reference picture of the same index, dB",
            "per picture, range 255, identical pictures count as 100 dB",
            "pairs",
            "higher",
        ),
        Metric(
            "unmasked_psnr",
            "inpainting: peak signal-to-noise ratio to the source where nothing was painted, dB",
            "as psnr, over the pixels that the mask leaves alone",
            "source",
            "higher",
        ),
        Metric(
            "cos",
            "cosine of a picture's embedding with that of its reference picture",
            "embeddings of the network in brackets, in float64",
            "pairs",
            "higher",
            CLIP_DEFAULT,
            "any",
        ),
    )
}

_NAME = re.compile(r"([\w-]+)(?:\[([^\[\]]+)\])?")


def _allowed(metric: Metric, net: str) -> bool:
    clip = net == "zoo-clip" or net.startswith("open-clip/")
    if metric.nets == "lpips":
        return net in ("alex", "vgg", "zoo-clip")
    return clip or (metric.nets == "any" and net in NETS)


def find(name: str) -> MetricChoice:
    """The metric of "fid", "fd[zoo-clip]", "clip_score[open-clip/ViT-L-14/openai]", ...

    UserError for an unknown metric or network, or a network where none can be chosen.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"given metric {name!r}, expected a name like fid or fd[zoo-clip]")
    base, net = match.groups()
    if base not in METRICS:
        raise unknown("metric", base, METRICS)
    metric = METRICS[base]
    if net is None:
        return MetricChoice(metric, metric.net)
    if metric.nets == "fixed":
        raise UserError(f"given {name}, expected plain {base}: its network is fixed")
    if not _allowed(metric, net):
        raise unknown(f"network for {base}", net, ("alex", "vgg", *NETS))
    return MetricChoice(metric, net)
