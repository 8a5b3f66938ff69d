"""Do the zoo's images follow edges? Brief captions, edges of other images, and a sheet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sunbench.models import find, load
from sunbench.sampling.edges import edges
from sunbench.studies.sampled import sampled_images
from sunbench.studies.zoo_quality import MODELS, Probe, held_out_scenes, sheet
from sunbench.zoo import controlnet
from sunbench.zoo.control import brief
from sunbench.zoo.data import Scene

STEPS = 25


def agreement(edges: Tensor, wanted: Tensor) -> Tensor:
    """F1 of edges (N, 3, H, W) of 0 and 1 against wanted ones, a pixel's shift allowed: (N,)."""
    edges, wanted = edges[:, :1], wanted[:, :1]
    wide = [F.max_pool2d(x, 3, 1, 1) for x in (edges, wanted)]
    share = lambda a, b: (a * b).flatten(1).sum(1) / a.flatten(1).sum(1).clamp_min(1)  # noqa: E731
    precision, recall = share(edges, wide[1]), share(wanted, wide[0])
    return 2 * precision * recall / (precision + recall).clamp_min(1e-6)


@dataclass(frozen=True)
class Followed:
    """Images (N, 3, H, W) uint8 of one model.

    source: of whole captions; alone, steered: of brief ones from other noise, without and with the
    source's edges.
    """

    scenes: list[Scene]
    source: Tensor
    alone: Tensor
    steered: Tensor

    def agreements(self) -> tuple[float, float]:
        """Mean agreement with the source's edges, without and with the ControlNet."""
        wanted = edges(self.source)
        alone, steered = (agreement(edges(x), wanted).mean() for x in (self.alone, self.steered))
        return float(alone), float(steered)


def follow(name: str, n: int, seed: int = 0) -> Followed:
    """Draw n held-out scenes: whole captions, then brief ones without and with their edges."""
    card, chosen = find(name), held_out_scenes(n, seed)
    loaded = load(card)
    short = [brief(s) for s in chosen]
    source = sampled_images(loaded, [s.caption for s in chosen], STEPS, card.guidance_scale)
    alone = sampled_images(loaded, short, STEPS, card.guidance_scale)
    controlled = load(card, task="controlnet", controlnet=str(controlnet()))
    steered = sampled_images(controlled, short, STEPS, card.guidance_scale, sources=source)
    return Followed(chosen, source, alone, steered)


def check_control(n: int) -> list[Probe]:
    """Agreement of edges for every model; the ControlNet has seen the base alone."""
    probes = []
    for name in MODELS:
        alone, steered = follow(name, n).agreements()
        what = f"{name}: edges agree, brief caption"
        probes.append(Probe(what, alone, "", n))
        probes.append(Probe(f"{what} and ControlNet", steered, "clearly higher", n))
    return probes


def control_sheet(name: str, n: int = 8) -> Image.Image:
    """A source, its edges, and the brief caption without and with them."""
    followed = follow(name, n, seed=3)
    lines = (edges(followed.source) * 255).to(torch.uint8)
    rows = [
        ("whole caption", followed.source),
        ("its edges", lines),
        ("brief caption, other noise", followed.alone),
        ("the same with the edges", followed.steered),
    ]
    return sheet(rows, [brief(s) for s in followed.scenes])
