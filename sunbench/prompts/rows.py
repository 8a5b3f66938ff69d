"""Prompts, and ordered sets of them with stable ids."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from sunbench.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """One row: a name that never depends on other rows' order, what to draw, what to avoid."""

    id: str
    text: str
    negative: str = ""


@dataclass(frozen=True)
class PromptSet:
    """Ordered prompts, where they are from, and their license; UserError when there are none.

    pinned: whether the same name will always read the same prompts.
    """

    name: str
    rows: tuple[Prompt, ...]
    source: str
    license: str
    pinned: bool = True

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError(f"{self.name} holds 0 prompts, expected at least one")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def hash(self) -> str:
        """sha256 over ids, texts and negatives, in order; name and source do not count."""
        rows = [(r.id, r.text, r.negative) for r in self.rows]
        return hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest()

    def take(self, n: int) -> PromptSet:
        """The first n prompts; UserError when there are fewer."""
        if not 1 <= n <= len(self):
            raise UserError(f"given {n} prompts of {self.name}, expected 1 to {len(self)}")
        return replace(self, rows=self.rows[:n])


def text_id(text: str) -> str:
    """Name of a text: first 12 hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def text_ids(texts: Iterable[str]) -> list[str]:
    """Names of texts; a repeated text gets ``-2``, ``-3``, ... in order."""
    seen: Counter[str] = Counter()
    names = []
    for text in texts:
        name = text_id(text)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names
