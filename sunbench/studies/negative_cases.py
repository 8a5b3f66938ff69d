"""What is asked of a negative prompt: a prompt, a concept it shows, and one that it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sunbench import prompts
from sunbench.errors import UserError
from sunbench.models import ModelCard
from sunbench.prompts import Prompt
from sunbench.studies.zoo_quality import ground_colours
from sunbench.zoo.data import Scene, colours, scenes, things

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
    """Prompts, and the concepts of each sort that their negatives name, one a prompt."""

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
    """Held-out captions; the negative names their ground colour, or their thing."""
    held = scenes()[1]
    if not 1 <= n <= len(held):
        raise UserError(f"given {n} prompts of the zoo, expected 1 to {len(held)}")
    chosen = held[:n]
    shades = [f"{_article(name)} {name} background" for name, _ in colours()]
    names = [f"{_article(name)} {name}" for name, _, _ in things()]
    kinds = (
        _kind("ground colour", shades, [s.colour for s in chosen], chosen, _colour_reader(chosen)),
        _kind("thing", names, [s.thing for s in chosen], chosen, _thing_reader(chosen)),
    )
    return Cases(tuple(Prompt(s.id, s.caption) for s in chosen), kinds, "zoo")


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _kind(
    name: str,
    words: Sequence[str],
    shown: Sequence[int],
    chosen: Sequence[Scene],
    reader: tuple[str, Reader],
) -> Kind:
    other = [_other(i, len(words), scene.id) for i, scene in zip(shown, chosen, strict=True)]
    named, absent = (tuple(words[i] for i in indices) for indices in (shown, other))
    return Kind(name, named, absent, (reader,))


def _other(shown: int, n: int, salt: str) -> int:
    """Another index below n, the same on every machine."""
    digest = hashlib.sha256(f"absent/{salt}".encode()).digest()
    return (shown + 1 + int.from_bytes(digest[:4], "little") % (n - 1)) % n


def _colour_reader(chosen: Sequence[Scene]) -> tuple[str, Reader]:
    truth = np.array([s.colour for s in chosen])

    def read(images: Tensor, which: Sequence[int], scorer: ZooClip) -> NDArray[Any]:
        return (ground_colours(images).numpy() == truth[list(which)]).astype(float)

    return "ground read off the border", read


def _thing_reader(chosen: Sequence[Scene]) -> tuple[str, Reader]:
    """The thing whose caption, all else in the scene the same, is the nearest by CLIP."""
    held: dict[int, Tensor] = {}  # of each prompt, its captions with every thing

    def words(i: int, scorer: ZooClip) -> Tensor:
        if i not in held:
            s = chosen[i]
            every = [replace(s, thing=t).caption for t in range(len(things()))]
            held[i] = normalize(scorer.embed_text(every).cpu())
        return held[i]

    def read(images: Tensor, which: Sequence[int], scorer: ZooClip) -> NDArray[Any]:
        features = normalize(scorer.embed(images).cpu())
        nearest = [
            int((words(i, scorer) @ f).argmax()) for i, f in zip(which, features, strict=True)
        ]
        return (np.array(nearest) == [chosen[i].thing for i in which]).astype(float)

    return "thing of the nearest caption", read
