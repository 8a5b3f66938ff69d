"""Metrics by name; imports no torch.

Metrics are one explicit table; packages outside join by the entry-point group ``sunbench.metrics``,
whose entries are callables without arguments that return a ``sunbench.metrics.Metric``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from sunbench.errors import UserError, unknown
from sunbench.metrics.metric import Metric
from sunbench.metrics.networks.registry import NETWORKS, network_entry

_HERE = "sunbench.metrics"

#: Name -> "module:class".
METRICS = {
    "fid": f"{_HERE}.frechet:Fid",
    "fd": f"{_HERE}.frechet:Fd",
    "kid": f"{_HERE}.kid:Kid",
    "inception_score": f"{_HERE}.inception_score:InceptionScore",
    "zero_shot_inception_score": f"{_HERE}.inception_score:ZeroShotInceptionScore",
    "clip_score": f"{_HERE}.clip_score:ClipScore",
    "lpips": f"{_HERE}.lpips:Lpips",
    "perceptual": f"{_HERE}.perceptual:Perceptual",
    "ssim": f"{_HERE}.ssim:Ssim",
    "psnr": f"{_HERE}.psnr:Psnr",
    "unmasked_psnr": f"{_HERE}.unmasked_psnr:UnmaskedPsnr",
    "cos": f"{_HERE}.cos:Cos",
    "latent_cos": f"{_HERE}.latent_cos:LatentCos",
}


@dataclass(frozen=True)
class MetricChoice:
    """A metric with the network it is asked for with."""

    metric: Metric
    net: str | None

    @property
    def label(self) -> str:
        """The column's name: "fid", "fd[zoo-clip]", "ssim"."""
        name = self.metric.name
        return name if self.metric.capability is None else f"{name}[{self.net}]"

    def feature_name(self, feature_key: str, reference: str) -> str:
        """Where the shards keep what the metric reads; a network's key is part of the name.

        feature_key: of the network, "" without one. reference: key of the cell that paired scores
        are against.
        """
        network = "" if self.net is None else f"-{self.net}-{feature_key[:8]}"
        match self.metric.reads:
            case "embeddings":
                return f"embed{network}"
            case "images" | "latents":
                return f"paired-{reference[:12]}-{self.metric.name}{network}"
            case "sources":
                return self.metric.name


def locations() -> dict[str, str]:
    """Where every metric is, those of other packages included."""
    return {**{e.name: e.value for e in entry_points(group="sunbench.metrics")}, **METRICS}


@lru_cache(maxsize=256)
def _load(target: str) -> Metric:
    module, _, attribute = target.partition(":")
    loaded: Metric = getattr(import_module(module), attribute)()
    return loaded


def metric(name: str) -> Metric:
    """The metric of that name; ``UserError`` with the nearest match for an unknown one."""
    target = METRICS.get(name) or locations().get(name)  # entry points are slow to list
    if target is None:
        raise unknown("metric", name, locations())
    return _load(target)


def metrics() -> dict[str, Metric]:
    """All metrics by name."""
    return {name: metric(name) for name in locations()}


_NAME = re.compile(r"([\w-]+)(?:\[([^\[\]]+)\])?")


def find_metric(name: str) -> MetricChoice:
    """The metric of "fid", "fd[zoo-clip]", "clip_score[open-clip/ViT-L-14/openai]", ...

    UserError for an unknown metric or network, or a network where none can be chosen.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"given metric {name!r}, expected a name like fid or fd[zoo-clip]")
    base, net = match.groups()
    chosen = metric(base)
    if net is None:
        return MetricChoice(chosen, chosen.network)
    if chosen.capability is None:
        raise UserError(f"given {name}, expected plain {base}: its network is fixed")
    _check_network(chosen, net)
    return MetricChoice(chosen, net)


def _check_network(chosen: Metric, net: str) -> None:
    offers = [n for n, entry in NETWORKS.items() if chosen.capability in entry.offers]
    open_ended = net.startswith("open-clip/")  # any of open_clip's; its loader knows them
    if open_ended and chosen.capability in network_entry(net).offers:
        return
    if (chosen.name, net) == ("lpips", "zoo-clip"):
        raise UserError("given lpips[zoo-clip], which has no learned heads: perceptual[zoo-clip]")
    if net not in offers:
        raise unknown(f"network for {chosen.name}", net, offers)
