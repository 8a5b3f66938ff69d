"""Scenes as images: a drawing on a background, with the choices that no caption names.

Beside what a scene says, an image has a shade around the named color, a light that falls from
some side, the phase of its pattern, a shift of a few pixels, a mirror image and a few degrees of
rotation. These make an image its own without new words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sunbench.zoo.world.captions import Scene, colors, first_drawings, recipe, scenes

RESOLUTION = 64
EXTENTS = (32, 44, 58)  # longest side of the subject by size, pixels
ROTATIONS = (-9, 0, 9)  # degrees
SHIFT = 14  # of a small subject toward its place, pixels
DIRECTIONS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # of each place: down, right
JITTER = (2, 4, 2)  # largest further shift by size, pixels
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Variation:
    """The choices that no caption names, of N images."""

    drawing: Tensor  # (N,) which of the thing's drawings, 0..1
    rotation: Tensor  # (N,) index into ROTATIONS
    mirror: Tensor  # (N,) bool
    jitter: Tensor  # (N, 2) down and right, -1..1 of JITTER
    shade: Tensor  # (N, 3) added to the background's RGB
    light: Tensor  # (N, 2) slope of the brightness down and right
    phase: Tensor  # (N, 2) of the pattern, pixels
    slant: Tensor  # (N,) bool: stripes fall or rise

    @classmethod
    def sample(cls, n: int, g: torch.Generator) -> Variation:
        """n sets of choices."""
        lightness = (torch.rand(n, 1, generator=g) * 2 - 1) * 0.07
        return cls(
            drawing=torch.rand(n, generator=g),
            rotation=torch.randint(len(ROTATIONS), (n,), generator=g),
            mirror=torch.rand(n, generator=g) < 0.5,
            jitter=torch.rand(n, 2, generator=g) * 2 - 1,
            shade=lightness + (torch.rand(n, 3, generator=g) * 2 - 1) * 0.03,
            light=(torch.rand(n, 2, generator=g) * 2 - 1) * 0.12,
            phase=torch.randint(16, (n, 2), generator=g),
            slant=torch.rand(n, generator=g) < 0.5,
        )


# ------------------------------------------------------------------------------ backgrounds


@cache
def _rgb() -> Tensor:
    """(colors, 3) float32 in 0..1."""
    return torch.tensor([c for _, c in colors()], dtype=torch.float32) / 255


@cache
def dark_backgrounds() -> Tensor:
    """(colors,) bool: backgrounds on which line art is drawn in light ink."""
    return (_rgb() * torch.tensor(LUMA)).sum(1) < 0.45


def _pattern_masks(pattern: Tensor, v: Variation) -> Tensor:
    """(N, 64, 64) float32: 1 where a pattern shows its second color."""
    axis = torch.arange(RESOLUTION)
    y = (axis[None, :] + v.phase[:, :1])[:, :, None]
    x = (axis[None, :] + v.phase[:, 1:])[:, None, :]
    striped = torch.where(v.slant[:, None, None], x + y, x - y + RESOLUTION) // 8 % 2
    dotted = ((x % 16 - 7.5) ** 2 + (y % 16 - 7.5) ** 2) < 3.6**2
    checked = (x // 16 + y // 16) % 2
    plain = torch.zeros_like(striped)
    every = torch.stack([plain, striped, dotted.long(), checked], 1)
    return every[torch.arange(len(pattern)), pattern].float()


def backgrounds(color: Tensor, pattern: Tensor, v: Variation) -> Tensor:
    """(N, 3, 64, 64) float32 in 0..1."""
    first = _rgb()[color] + v.shade
    luma = (first * torch.tensor(LUMA)).sum(1, keepdim=True)
    second = torch.where(luma > 0.62, first * 0.84, first + (1 - first) * 0.22)
    mask = _pattern_masks(pattern, v)[:, None]
    axis = torch.linspace(-1, 1, RESOLUTION)
    slope = v.light[:, :1, None] * axis[None, :, None] + v.light[:, 1:, None] * axis[None, None, :]
    painted = first[:, :, None, None] * (1 - mask) + second[:, :, None, None] * mask
    return (painted * (1 + slope[:, None])).clamp(0, 1)


# ------------------------------------------------------------------------------ subjects


@dataclass(frozen=True)
class Sprites:
    """Every drawing in every style.

    dark_ink, light_ink: (styles, drawings, sizes, rotations, 4, 64, 64) uint8, premultiplied; they
    differ where a style's ink follows its background.
    """

    dark_ink: Tensor
    light_ink: Tensor

    @classmethod
    def load(cls, file: Path) -> Sprites:
        """Read what ``sprites.render`` has written."""
        tensors = load_file(file)
        names = [style["name"] for style in recipe()["styles"]]
        return cls(
            torch.stack([tensors[n] for n in names]),
            torch.stack([tensors.get(f"{n}/light", tensors[n]) for n in names]),
        )

    def compose(self, scene_rows: Tensor, style: Tensor, v: Variation) -> Tensor:
        """Images (N, 3, 64, 64) float32 in 0..1 of scenes (N, 5) in styles (N,)."""
        thing, size, place, color, pattern = scene_rows.unbind(1)
        first, count = first_drawings()
        drawing = first[thing] + (v.drawing * count[thing]).long()
        at = (style, drawing, size, v.rotation)
        light = dark_backgrounds()[color][:, None, None, None]
        sprite = torch.where(light, self.light_ink[at], self.dark_ink[at])
        sprite = torch.where(v.mirror[:, None, None, None], sprite.flip(-1), sprite)
        rgba = _shifted(sprite, self.shift(size, place, v)).float() / 255
        return rgba[:, :3] + backgrounds(color, pattern, v) * (1 - rgba[:, 3:])

    @staticmethod
    def shift(size: Tensor, place: Tensor, v: Variation) -> Tensor:
        """How far a subject stands from the center: (N, 2) pixels down and right."""
        reach = torch.tensor(JITTER)[size][:, None]
        return SHIFT * torch.tensor(DIRECTIONS)[place] + (v.jitter * reach).round().long()


def _shifted(sprite: Tensor, shift: Tensor) -> Tensor:
    axis = torch.arange(RESOLUTION)
    rows = (axis[None] - shift[:, :1]) % RESOLUTION
    cols = (axis[None] - shift[:, 1:]) % RESOLUTION
    n = torch.arange(len(sprite))[:, None, None]
    return sprite[n, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------ batches


@dataclass(frozen=True)
class Batch:
    """images (N, 3, 64, 64) in -1..1, scenes (N, 5), styles (N,)."""

    images: Tensor
    scenes: Tensor
    styles: Tensor


def sample_batch(
    sprites: Sprites, styles: list[int], pool: tuple[Scene, ...], n: int, seed: int
) -> Batch:
    """n images of scenes of a pool, by the seed alone."""
    g = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(pool), (n,), generator=g).tolist()
    rows = torch.tensor([pool[i].row for i in picked])
    style = torch.tensor(styles)[torch.randint(len(styles), (n,), generator=g)]
    images = sprites.compose(rows, style, Variation.sample(n, g))
    return Batch(images * 2 - 1, rows, style)


def batch_maker(sprites: Sprites, styles: list[int], n: int, seed: int) -> Callable[[int], Batch]:
    """Batch number -> n images of training scenes, by the seed and the number alone."""
    pool = scenes()[0]
    return lambda k: sample_batch(sprites, styles, pool, n, seed * 1_000_003 + k)
