"""What is asked of a negative prompt: a prompt, a concept it shows, and one that it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sunbench import prompts
from sunbench.errors import UserError
from sunbench.models import ModelCard
from sunbench.prompts import Prompt
from sunbench.studies.zoo_quality import column, load_reader, read
from sunbench.zoo.world.captions import HeldOutPrompt as WorldPrompt
from sunbench.zoo.world.captions import colors, held_out_prompts, things, with_article

if TYPE_CHECKING:
    from sunbench.metrics.networks.zoo_clip import ZooClip

#: Reads a concept off images (N, 3, H, W) uint8 of the given prompts: 0 or 1 each, (N,).
Reader = Callable[[Tensor, Sequence[int], "ZooClip"], NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """One sort of concept, over all prompts.

    named: what the negative names, shown by the prompt's image. absent: another of its sort,
    which the image does not show: naming it must change nothing but what any negative changes.
    readers: ways of reading the named concept off an image, beside CLIP.
    """

    name: str
    named: tuple[str, ...]
    absent: tuple[str, ...]
    readers: tuple[tuple[str, Reader], ...] = ()


@dataclass(frozen=True)
class Cases:
    """Prompts, and the concepts of each sort that their negatives name, one per prompt."""

    rows: tuple[Prompt, ...]
    kinds: tuple[Kind, ...]
    source: str


def cases_for(card: ModelCard, spec: str | None, column: str | None, n: int) -> Cases:
    """The first n prompts of the zoo, or of a file whose negative column names the concepts."""
    if spec is None and card.prompts == "zoo":
        return zoo_cases(n)
    if spec is None:
        raise UserError(
            f"{card.name}: given no prompts, expected a file with a prompt and the concept to"
            " remove in a column negative_prompt: --prompts FILE"
        )
    prompt_set = prompts.load(spec, column=column, negatives="default", limit=n)
    return file_cases(prompt_set.rows, prompt_set.name)


def file_cases(rows: tuple[Prompt, ...], name: str) -> Cases:
    """Concepts from the rows' own negatives; the absent one is the next row's that differs."""
    empty = [r.text for r in rows if not r.negative]
    if empty:
        raise UserError(f"{name}: no negative prompt beside {empty[0]!r}, expected a concept")
    named = tuple(r.negative for r in rows)
    if len(set(named)) < 2:
        raise UserError(f"{name}: given the one concept {named[0]!r}, expected two or more")
    absent = tuple(
        next(x for x in (*named[i + 1 :], *named) if x != named[i]) for i in range(len(named))
    )
    return Cases(rows, (Kind("concept", named, absent),), name)


# ------------------------------------------------------------------------------ the zoo


def zoo_cases(n: int) -> Cases:
    """Held-out prompts that name their color and their thing; the negative names one of them."""
    held = [p for p in held_out_prompts() if p.mention.color and p.mention.thing]
    if not 1 <= n <= len(held):
        raise UserError(f"given {n} prompts of the zoo, expected 1 to {len(held)}")
    chosen = held[:n]
    shades = [with_article([name, "background"]) for name, _ in colors()]
    names = [with_article([thing.name]) for thing in things()]
    kinds = (_kind("color", shades, chosen), _kind("thing", names, chosen))
    return Cases(tuple(Prompt(p.id, p.text) for p in chosen), kinds, "zoo")


def _kind(attribute: str, words: Sequence[str], chosen: Sequence[WorldPrompt]) -> Kind:
    """Each prompt's own word for an attribute, and another that its image does not show."""
    shown = [getattr(p.scene, attribute) for p in chosen]
    other = [_other(i, len(words), p.id) for i, p in zip(shown, chosen, strict=True)]
    named, absent = (tuple(words[i] for i in indices) for indices in (shown, other))
    return Kind(
        attribute, named, absent, ((f"{attribute} read off the image", _reader(attribute, shown)),)
    )


def _other(shown: int, n: int, salt: str) -> int:
    """Another index below n, the same on every machine."""
    digest = hashlib.sha256(f"absent/{salt}".encode()).digest()
    return (shown + 1 + int.from_bytes(digest[:4], "little") % (n - 1)) % n


def _reader(attribute: str, truth: Sequence[int]) -> Reader:
    """Whether the zoo's reader network sees each prompt's own value."""
    network = cache(load_reader)

    def read_(images: Tensor, which: Sequence[int], scorer: ZooClip) -> NDArray[Any]:
        values = column(read(network(), images), attribute).numpy()
        return (values == np.array(truth)[list(which)]).astype(float)

    return read_
