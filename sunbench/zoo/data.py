"""Pictures and captions of the zoo: emoji art on coloured grounds, composed on the fly.

Only rebuilding or training needs the sprites; running the suite needs the captions alone.
Sources, hashes and licences stand in ``zoo.toml`` and are repeated in ``NOTICE``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunbench.errors import UserError
from sunbench.zoo.world.sprites import (
    DARK_INK,
    LIGHT_INK,
    Draw,
    bitmap_art,
    fetch_packages,
    fit,
    old_names,
    svg_art,
)

log = logging.getLogger(__name__)

RESOLUTION = 64
SIZES = ("small", "medium", "large")
SIZE_WORDS = ("a small", "a", "a large")
EXTENT = (36, 44, 60)  # longest side of the subject, pixels
PATCH = 8  # pixels a latent; subjects move by whole patches, so that a latent has one meaning
GROUNDS = ("plain", "striped", "dotted", "checked")
PLACES = ("centre", "left", "right", "top", "bottom")
PLACE_WORDS = ("on", "on the left of", "on the right of", "at the top of", "at the bottom of")
OFFSET = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # of the subject (down, right), patches
PLACED = (len(PLACES), 1, 1)  # how many places each size knows; others fill the picture


@lru_cache
def recipe() -> dict[str, Any]:
    """The zoo's recipe: every setting that shapes it."""
    return tomllib.loads(resources.files("sunbench.zoo").joinpath("zoo.toml").read_text("utf-8"))


@lru_cache
def things() -> tuple[tuple[str, str, str], ...]:
    """(name, emoji, group) of each thing that the zoo can draw."""
    text = resources.files("sunbench.zoo").joinpath("things.csv").read_text("utf-8")
    return tuple((r["name"], r["emoji"], r["group"]) for r in csv.DictReader(io.StringIO(text)))


@lru_cache
def colours() -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """(name, RGB) of each ground colour."""
    table = recipe()["colours"]
    return tuple((n, (int(h[1:3], 16), int(h[3:5], 16), int(h[5:7], 16))) for n, h in table.items())


# ------------------------------------------------------------------------------ captions


@dataclass(frozen=True)
class Scene:
    """What a caption says: indices into things, sizes, colours, grounds and places."""

    MEDIUM: ClassVar[int] = 1  # the size that a caption need not name

    thing: int
    size: int
    colour: int
    ground: int
    place: int = 0

    @property
    def row(self) -> list[int]:
        """The indices, in the order of the columns of ``compose_indices``."""
        return [self.thing, self.size, self.colour, self.ground, self.place]

    @property
    def caption(self) -> str:
        """The scene in words, e.g. ``a small apple on the left of a teal striped background``."""
        return self._spelled({"unicorn": "a"})

    @property
    def id(self) -> str:
        """Stable name of the scene, independent of the order of any list.

        It hashes the caption with articles by first letter, so that mending one moves no scene.
        """
        return hashlib.sha256(self._spelled({}).encode()).hexdigest()[:12]

    def _spelled(self, articles: dict[str, str]) -> str:
        thing, colour = things()[self.thing][0], colours()[self.colour][0]
        by_letter = {w: "an" if w[0] in "aeiou" else "a" for w in (thing, colour)}
        words = SIZE_WORDS[self.size]
        words = articles.get(thing, by_letter[thing]) if words == "a" else words
        pattern = "" if self.ground == 0 else f" {GROUNDS[self.ground]}"
        where = PLACE_WORDS[self.place]
        return f"{words} {thing} {where} {by_letter[colour]} {colour}{pattern} background"


@lru_cache
def scenes() -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """All scenes as (train, test): the ``test_captions`` with the smallest hash are held out."""
    every = [
        Scene(t, s, c, g, p)
        for t in range(len(things()))
        for s in range(len(SIZES))
        for c in range(len(colours()))
        for g in range(len(GROUNDS))
        for p in range(PLACED[s])
    ]
    every.sort(key=lambda scene: scene.id)
    n = recipe()["data"]["test_captions"]
    return tuple(every[n:]), tuple(every[:n])


# ------------------------------------------------------------------------------ sprites


def render_style(style: str, draw: Draw) -> Tensor:
    """Every thing in one style: (things, sizes, 4, 64, 64) uint8, premultiplied."""
    rows, seen = [], dict[bytes, str]()
    for name, emoji, _ in things():
        picture = draw(emoji)
        if picture is None:
            raise UserError(f"style {style} has no picture of {name} ({emoji})")
        twin = seen.setdefault(picture.tobytes(), name)
        if twin != name:
            raise UserError(f"style {style}: {name} looks exactly like {twin}")
        rows.append(np.stack([fit(picture, extent) for extent in EXTENT]))
    return torch.from_numpy(np.stack(rows)).permute(0, 1, 4, 2, 3).contiguous()


def render_sprites(packages: Path) -> dict[str, Tensor]:
    """Every thing in every style, by style.

    Styles whose ink follows the ground (line art) get a second entry ``<style>/light``.
    """
    files = {p["name"]: packages / p["file"] for p in recipe()["packages"]}
    names = old_names(files)
    out: dict[str, Tensor] = {}
    for style in recipe()["styles"]:
        name, tarball = style["name"], files[style["package"]]
        if "iconify" not in style["package"]:
            out[name] = render_style(name, bitmap_art(tarball))
            continue
        out[name] = render_style(name, svg_art(tarball, DARK_INK, names))
        if style.get("line"):
            draw = svg_art(tarball, LIGHT_INK, names)
            out[f"{name}/light"] = render_style(name, draw)
    return out


# ------------------------------------------------------------------------------ pictures


@lru_cache
def grounds() -> Tensor:
    """(colours, grounds, 3, 64, 64) float32 in 0..1."""
    y, x = torch.meshgrid(torch.arange(RESOLUTION), torch.arange(RESOLUTION), indexing="ij")
    striped = ((x + y) // 8 % 2).float()
    cell = 16
    dx, dy = x % cell - 7.5, y % cell - 7.5
    dotted = ((dx**2 + dy**2) < 3.6**2).float()
    checked = ((x // 16 + y // 16) % 2).float()
    masks = torch.stack([torch.zeros_like(striped), striped, dotted, checked])
    rgb = torch.tensor([c for _, c in colours()], dtype=torch.float32) / 255
    luma = (rgb * torch.tensor([0.299, 0.587, 0.114])).sum(1, keepdim=True)
    second = torch.where(luma > 0.62, rgb * 0.84, rgb + (1 - rgb) * 0.22)
    m = masks[None, :, None]
    return rgb[:, None, :, None, None] * (1 - m) + second[:, None, :, None, None] * m


@lru_cache
def dark_grounds() -> Tensor:
    """(colours,) bool: grounds on which line art is drawn in light ink."""
    rgb = torch.tensor([c for _, c in colours()], dtype=torch.float32) / 255
    return (rgb * torch.tensor([0.299, 0.587, 0.114])).sum(1) < 0.45


@dataclass(frozen=True)
class Sprites:
    """Every thing in every style, and the pictures they make."""

    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, file: Path) -> Sprites:
        """Read sprites.safetensors."""
        return cls(load_file(file))

    @classmethod
    def build(cls, packages: Path, file: Path) -> Sprites:
        """Read the sprites, drawing them first if they are not there yet."""
        if not file.exists():
            fetch_packages(packages, recipe()["packages"])
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            save_file(render_sprites(packages), part)
            part.replace(file)
        return cls.load(file)

    @cached_property
    def _stacks(self) -> tuple[Tensor, Tensor]:
        names = [s["name"] for s in recipe()["styles"]]
        dark_ink = torch.stack([self.tensors[n] for n in names])
        light = torch.stack([self.tensors.get(f"{n}/light", self.tensors[n]) for n in names])
        return dark_ink, light

    def compose(self, scenes: list[Scene], style: Tensor) -> Tensor:
        """Pictures (N, 3, 64, 64) in 0..1 of scenes in style[i]; a caption and a style say all."""
        return self.compose_indices(torch.tensor([s.row for s in scenes]), style)

    def compose_indices(self, index: Tensor, style: Tensor) -> Tensor:
        """As ``compose``, of scenes as an (N, 5) integer tensor of their rows."""
        thing, size, colour, ground, place = index.unbind(1)
        n = len(index)
        ink, light = self._stacks
        use_light = dark_grounds()[colour]
        sprite = torch.empty(n, 4, RESOLUTION, RESOLUTION, dtype=torch.uint8)
        sprite[use_light] = light[style[use_light], thing[use_light], size[use_light]]
        sprite[~use_light] = ink[style[~use_light], thing[~use_light], size[~use_light]]
        shift = PATCH * torch.tensor(OFFSET)[place]
        axis = torch.arange(RESOLUTION)
        rows = (axis[None] - shift[:, :1]) % RESOLUTION
        cols = (axis[None] - shift[:, 1:]) % RESOLUTION
        picked = torch.arange(n)[:, None, None]
        sprite = sprite[picked, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
        rgba = sprite.float() / 255
        return rgba[:, :3] + grounds()[colour, ground] * (1 - rgba[:, 3:])


def batches(
    sprites: Sprites, styles: list[int], pool: tuple[Scene, ...], size: int, seed: int, start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless (pictures, scenes, styles); batch k depends on (seed, k) alone, so runs resume."""
    table = torch.tensor([s.row for s in pool])
    allowed = torch.tensor(styles)
    k = start
    while True:
        g = torch.Generator().manual_seed(seed * 1_000_003 + k)
        index = table[torch.randint(len(table), (size,), generator=g)]
        style = allowed[torch.randint(len(allowed), (size,), generator=g)]
        yield sprites.compose_indices(index, style), index, style
        k += 1
