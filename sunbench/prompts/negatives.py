"""Sampled negative prompts: some phrases of a vocabulary, chosen by the row's id alone."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import TypeVar

from sunbench.prompts.rows import Prompt

_SILENT = "a an and at background by for from in no not of on or over the to with"
_STOP = frozenset(_SILENT.split())
_TRIES = 50  # draws per wanted phrase before a row that forbids nearly all gets fewer

T = TypeVar("T")


@dataclass(frozen=True)
class Vocabulary:
    """Phrases in kinds, drawn kind first so that few phrases of a kind weigh as much as many.

    most: a row gets 1 to most phrases, uniformly.
    """

    kinds: tuple[tuple[str, ...], ...]
    most: int


@lru_cache
def phrases() -> tuple[str, ...]:
    """The project's own 832 negative phrases for real models."""
    file = resources.files("sunbench.prompts").joinpath("data/negative_phrases.txt")
    return tuple(file.read_text("utf-8").splitlines())


@lru_cache
def real_vocabulary() -> Vocabulary:
    """832 phrases, 1 to 25 per row."""
    return Vocabulary((phrases(),), 25)


@lru_cache
def zoo_vocabulary() -> Vocabulary:
    """What the zoo's captions can say, each kind alike often; 1 to 4 phrases per row.

    Kinds: things, colors, patterns, sizes, places, styles. Four phrases of three words and their
    commas fit the zoo's 24 tokens.
    """
    from sunbench.zoo.world import captions as world

    things = tuple(thing.name for thing in world.things())
    colors = tuple(f"{name} background" for name, _ in world.colors())
    patterns = tuple(f"{name} background" for name in world.PATTERNS)
    styles = tuple(f"{word} style" for word in world.style_words() if word)
    kinds = (things, colors, patterns, world.SIZES, world.PLACE_PHRASES, styles)
    return Vocabulary(kinds, 4)


def content_words(text: str) -> frozenset[str]:
    """Words of a text that say something, in lower case."""
    return frozenset(re.findall(r"[^\W_]+", text.lower())) - _STOP


def _pick(rng: random.Random, choices: tuple[T, ...]) -> T:
    """Uniform choice by ``random()``, the one stream that Python keeps between versions."""
    return choices[int(rng.random() * len(choices))]


def sample_negative(row_id: str, text: str, vocabulary: Vocabulary) -> str:
    """Negative prompt of a row: distinct phrases that share no content word with its text.

    It depends on the row alone, so that it stays when other rows come and go.
    """
    seed = hashlib.sha256(f"negative prompt of {row_id}".encode()).digest()[:8]
    rng = random.Random(int.from_bytes(seed, "big"))
    wanted = 1 + int(rng.random() * vocabulary.most)
    own = content_words(text)
    chosen: dict[str, None] = {}
    for _ in range(_TRIES * wanted):
        phrase = _pick(rng, _pick(rng, vocabulary.kinds))
        if not content_words(phrase) & own:
            chosen[phrase] = None
        if len(chosen) == wanted:
            break
    return ", ".join(chosen)


def with_sampled_negatives(rows: Iterable[Prompt], vocabulary: Vocabulary) -> tuple[Prompt, ...]:
    """The rows, each with its sampled negative prompt."""
    return tuple(replace(r, negative=sample_negative(r.id, r.text, vocabulary)) for r in rows)
