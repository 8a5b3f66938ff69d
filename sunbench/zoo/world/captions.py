"""Scenes, and captions that name some of what a scene shows.

A caption leaves choices: whatever it does not name, the initial noise has to decide. What each
caption names is kept beside it (``Mention``), so that a check knows what must come out right and
what must vary.
"""

from __future__ import annotations

import csv
import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

SIZES = ("small", "medium", "large")
PATTERNS = ("plain", "striped", "dotted", "checked")
PLACES = ("center", "left", "right", "top", "bottom")
PLACE_PHRASES = ("in the center", "on the left", "on the right", "at the top", "at the bottom")
#: Places that a subject of each size can take: only a small one leaves room to choose.
PLACES_OF_SIZE = (len(PLACES), 1, 1)
#: Groups whose word can stand for each of their things ("an animal").
CLASS_WORDS = ("animal", "plant", "fruit", "snack", "vehicle", "face", "object")
#: Words that start with a vowel letter but not with a vowel sound.
CONSONANT_SOUND = ("unicorn",)


@dataclass(frozen=True)
class Thing:
    """A name, its group, and the emoji that it may be drawn as."""

    name: str
    group: str
    emojis: tuple[str, ...]


@cache
def recipe() -> dict[str, Any]:
    """Every setting that shapes the zoo."""
    text = resources.files("sunbench.zoo.world").joinpath("recipe.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def things() -> tuple[Thing, ...]:
    """What the zoo can draw."""
    text = resources.files("sunbench.zoo.world").joinpath("things.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Thing(r["name"], r["group"], tuple(r["emojis"].split())) for r in rows)


@cache
def drawings() -> tuple[tuple[int, str], ...]:
    """(thing, emoji) of every drawing; several may share a name."""
    return tuple((i, emoji) for i, thing in enumerate(things()) for emoji in thing.emojis)


@cache
def first_drawings() -> tuple[Tensor, Tensor]:
    """First drawing and number of drawings of each thing: two (things,) tensors."""
    counts = torch.tensor([len(thing.emojis) for thing in things()])
    return counts.cumsum(0) - counts, counts


@cache
def colors() -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """(name, RGB) of each background color."""
    table = recipe()["colors"]
    return tuple((n, (int(h[1:3], 16), int(h[3:5], 16), int(h[5:7], 16))) for n, h in table.items())


@cache
def style_words() -> tuple[str, ...]:
    """The word for each style; empty where no caption names it."""
    return tuple(style.get("word", "") for style in recipe()["styles"])


# ------------------------------------------------------------------------------ words


@dataclass(frozen=True)
class Mention:
    """What a caption names. thing: by its own name, else by the word of its group."""

    thing: bool = True
    size: bool = True
    place: bool = True
    color: bool = True
    pattern: bool = True


@dataclass(frozen=True)
class Scene:
    """What an image shows, up to its style and its continuous choices; indices into the lists."""

    thing: int
    size: int
    place: int
    color: int
    pattern: int

    @property
    def row(self) -> list[int]:
        """The indices, in the order of the fields."""
        return [getattr(self, f.name) for f in fields(self)]

    @property
    def id(self) -> str:
        """Stable name of the scene: a hash of its full caption."""
        return hashlib.sha256(self.caption().encode()).hexdigest()[:12]

    def caption(self, mention: Mention | None = None, style: str = "") -> str:
        """In words, e.g. ``a small apple on the left of a teal striped background``.

        The style stands first: CLIP reads left to right, so only then does the token of the thing
        know how it is drawn.
        """
        mention = mention or Mention()
        thing = things()[self.thing]
        subject = [thing.name if mention.thing or thing.group not in CLASS_WORDS else thing.group]
        if mention.size:
            subject.insert(0, SIZES[self.size])
        words = [with_article(subject), *self._where(mention)]
        return (f"{style} style, " if style else "") + " ".join(words)

    def _where(self, mention: Mention) -> list[str]:
        ground = [colors()[self.color][0]] if mention.color else []
        ground += [PATTERNS[self.pattern]] if mention.pattern else []
        place = [PLACE_PHRASES[self.place]] if mention.place else []
        if not ground:
            return place
        return [*place, "of" if place else "on", f"{with_article(ground)} background"]


def with_article(words: list[str]) -> str:
    """The words behind "a" or "an"."""
    first = words[0]
    vowel = first[0] in "aeiou" and first not in CONSONANT_SOUND
    return " ".join(["an" if vowel else "a", *words])


def style_indices(model: dict[str, Any]) -> list[int]:
    """Places of a model's styles in the recipe."""
    names = [s["name"] for s in recipe()["styles"]]
    return [names.index(s) for s in model["styles"]]


@cache
def scenes() -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """All scenes as (train, test): those with the smallest hash are held out."""
    every = [
        Scene(thing, size, place, color, pattern)
        for thing in range(len(things()))
        for size in range(len(SIZES))
        for place in range(PLACES_OF_SIZE[size])
        for color in range(len(colors()))
        for pattern in range(len(PATTERNS))
    ]
    every.sort(key=lambda scene: scene.id)
    held_out = recipe()["data"]["test_prompts"]
    return tuple(every[held_out:]), tuple(every[:held_out])


# ------------------------------------------------------------------------------ sampling captions


def sample_mention(scene: Scene, generator: torch.Generator) -> Mention:
    """What a caption of the scene names, each part independently by the recipe's shares."""
    share = recipe()["mentions"]
    u = torch.rand(5, generator=generator).tolist()
    place = share["place"] if PLACES_OF_SIZE[scene.size] > 1 else share["place_of_large"]
    return Mention(
        u[0] < share["thing"],
        u[1] < share["size"],
        u[2] < place,
        u[3] < share["color"],
        u[4] < share["pattern"],
    )


@dataclass(frozen=True)
class HeldOutPrompt:
    """A held-out prompt: its scene, what it names, and its words."""

    scene: Scene
    mention: Mention

    @property
    def id(self) -> str:
        """Stable name: the scene's, then which parts are named."""
        bits = "".join(str(int(getattr(self.mention, f.name))) for f in fields(Mention))
        return f"{self.scene.id}-{bits}"

    @property
    def text(self) -> str:
        """The caption."""
        return self.scene.caption(self.mention)


def held_out_prompts(limit: int | None = None) -> tuple[HeldOutPrompt, ...]:
    """One prompt per held-out scene, of all levels, no text twice; limit: the first so many."""
    every = len(scenes()[1])
    return _first_prompts(every if limit is None else min(limit, every))


@cache
def _first_prompts(n: int) -> tuple[HeldOutPrompt, ...]:
    return tuple(_distinct_prompts(n))


def _distinct_prompts(n: int) -> Iterator[HeldOutPrompt]:
    texts: set[str] = set()
    for k, scene in enumerate(scenes()[1][:n]):
        g = torch.Generator().manual_seed(1_000_003 * k + 7)
        prompt = HeldOutPrompt(scene, sample_mention(scene, g))
        for _ in range(30):
            if prompt.text not in texts:
                break
            prompt = HeldOutPrompt(scene, sample_mention(scene, g))
        else:
            prompt = HeldOutPrompt(scene, Mention())
        texts.add(prompt.text)
        yield prompt


def sample_captions(
    scene_rows: Tensor, style: Tensor, generator: torch.Generator, *, name_styles: bool = True
) -> list[str]:
    """Captions (N) of scenes (N, 5) in styles (N,), with choices left open."""
    words, share = style_words(), recipe()["mentions"]["style"]
    named = (torch.rand(len(style), generator=generator) < share).tolist()
    out = []
    for row, s, name_it in zip(scene_rows.tolist(), style.tolist(), named, strict=True):
        scene = Scene(*row)
        word = words[s] if name_it and name_styles else ""
        out.append(scene.caption(sample_mention(scene, generator), word))
    return out
