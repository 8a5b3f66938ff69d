"""Do the zoo's images follow edges? Brief captions, edges of other images, and a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sunbench.models import find_model, load
from sunbench.prompts import Prompt
from sunbench.sampling.edges import edges
from sunbench.studies.image_sheet import sheet
from sunbench.studies.sampled import sampled_images
from sunbench.studies.zoo_quality import STEPS, Check
from sunbench.zoo import controlnet
from sunbench.zoo.world.captions import Mention, Scene, held_out_prompts

#: What a brief caption names; the rest is left to the edges.
BRIEF = Mention(size=False, place=False, pattern=False)


def agreement(shown: Tensor, wanted: Tensor) -> Tensor:
    """F1 of edges (N, 3, H, W) of 0 and 1 against wanted ones, a pixel's shift allowed: (N,)."""
    shown, wanted = shown[:, :1], wanted[:, :1]
    wide = [F.max_pool2d(x, 3, 1, 1) for x in (shown, wanted)]
    share = lambda a, b: (a * b).flatten(1).sum(1) / a.flatten(1).sum(1).clamp_min(1)  # noqa: E731
    precision, recall = share(shown, wide[1]), share(wanted, wide[0])
    return 2 * precision * recall / (precision + recall).clamp_min(1e-6)


@dataclass(frozen=True)
class Followed:
    """Images (N, 3, H, W) uint8 of one model.

    source: of whole captions; alone, steered: of brief ones from other noise, without and with the
    source's edges.
    """

    scenes: Sequence[Scene]
    source: Tensor
    alone: Tensor
    steered: Tensor

    def agreements(self) -> tuple[float, float]:
        """Mean agreement with the source's edges, without and with the ControlNet."""
        wanted = edges(self.source)
        alone, steered = (agreement(edges(x), wanted).mean() for x in (self.alone, self.steered))
        return float(alone), float(steered)


def follow(name: str, n: int) -> Followed:
    """Draw n held-out scenes: whole captions, then brief ones without and with their edges."""
    card, scenes = find_model(name), [p.scene for p in held_out_prompts()[:n]]
    loaded, scale = load(card), card.guidance_scale
    whole = [Prompt(s.id, s.caption()) for s in scenes]
    brief = [Prompt(f"{s.id}-brief", s.caption(BRIEF)) for s in scenes]
    source = sampled_images(loaded, whole, STEPS, scale)
    alone = sampled_images(loaded, brief, STEPS, scale)
    controlled = load(card, task="controlnet", controlnet=str(controlnet()))
    steered = sampled_images(controlled, brief, STEPS, scale, sources=source)
    return Followed(scenes, source, alone, steered)


def check_control(name: str, n: int) -> list[Check]:
    """Agreement of edges of one model; the ControlNet has seen the base alone."""
    alone, steered = follow(name, n).agreements()
    return [
        Check("edges agree, brief caption", alone, None, None, n),
        Check(
            "edges agree, brief caption and ControlNet, over without", steered / alone, 1.5, None, n
        ),
    ]


def control_sheet(name: str, n: int = 8) -> Image.Image:
    """A source, its edges, and the brief caption without and with them."""
    images = follow(name, n)
    lines = (edges(images.source) * 255).to(torch.uint8)
    rows = [
        ("whole caption", images.source),
        ("its edges", lines),
        ("brief caption, other noise", images.alone),
        ("the same with the edges", images.steered),
    ]
    return sheet(rows, [s.caption(BRIEF) for s in images.scenes])
