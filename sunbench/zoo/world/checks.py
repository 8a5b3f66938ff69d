"""What the world must show, as numbers: reductions over images that were read.

The images come from cells; the reader names what they show; these functions compare that with what
the prompts name. Thresholds stand in the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from sunbench.zoo.world.captions import HeldOutPrompt, Mention
from sunbench.zoo.world.images import LUMA
from sunbench.zoo.world.reader import ATTRIBUTES

#: Columns of a reading that a caption can name.
NAMEABLE = tuple(f.name for f in fields(Mention))


def named_right(readings: Tensor, prompts: Sequence[HeldOutPrompt]) -> dict[str, float]:
    """Share of images that show what their prompt names, by attribute; absent if none names it.

    readings: (N, 6), a row per prompt.
    """
    out = {}
    for name in NAMEABLE:
        pairs = [
            (int(reading[ATTRIBUTES.index(name)]), getattr(prompt.scene, name))
            for reading, prompt in zip(readings, prompts, strict=True)
            if getattr(prompt.mention, name)
        ]
        if pairs:
            out[name] = sum(a == b for a, b in pairs) / len(pairs)
    return out


def style_right(readings: Tensor, styles: Sequence[int]) -> float:
    """Share of images in one of the wanted styles."""
    column = readings[:, ATTRIBUTES.index("style")]
    return torch.isin(column, torch.tensor(styles)).float().mean().item()


def entropy(values: Tensor, classes: int) -> float:
    """Entropy (nats) of integers (N,) below ``classes``, as counted."""
    p = torch.bincount(values, minlength=classes).double() / len(values)
    return float(-(p[p > 0] * p[p > 0].log()).sum())


def evenness(values: Tensor, classes: int, g: torch.Generator) -> float:
    """Entropy of values (N,) over that of N uniform draws, which is what training data shows.

    The same N on both sides: a count of few images has less entropy than the law behind it.
    """
    draws = [
        entropy(torch.randint(classes, (len(values),), generator=g), classes) for _ in range(200)
    ]
    return entropy(values, classes) / (sum(draws) / len(draws))


def gradient_magnitudes(images: Tensor) -> Tensor:
    """Mean length of the luminance gradient of each image (N, 3, H, W): (N,)."""
    luma = torch.einsum("nchw,c->nhw", images.float(), torch.tensor(LUMA))
    down, right = luma.diff(dim=1)[:, :, :-1], luma.diff(dim=2)[:, :-1]
    return (down.square() + right.square()).sqrt().mean((1, 2))
