"""Which tables and figures there are, and what each needs; imports no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sunbench.errors import unknown
from sunbench.store.files import JsonObject

KINDS = {"tables": "table", "costs": "cost", "timings": "timing", "figures": "figure"}


@dataclass(frozen=True)
class Protocol:
    """How a paper measured, as far as it can be repeated; empty where nothing can be yet."""

    title: str
    guidance: float = 0.0
    resolution: int = 0
    images: int = 0
    seeds: int = 1
    prompts: str = ""
    prompts_why: str = ""
    paper_prompts: str = ""


@dataclass(frozen=True)
class PaperModel:
    """A model of a paper, its card, and the zoo model that stands in for it."""

    name: str
    card: str
    zoo: str


@dataclass(frozen=True)
class Row:
    """A row of a paper's table, our method for it, and the part of the run that holds it.

    method: "" for a network that is not part of this suite.
    """

    name: str
    method: str
    part: str = ""


@dataclass(frozen=True)
class Part:
    """One run of a table.

    guidance: None is the table's own. against: the part whose reference it is measured by; empty
    for its own. adapter: file name of a SUN adapter trained with the setting ``train``; suffix: the
    same for other methods, ``METHOD-SUFFIX.safetensors``.
    """

    name: str = ""
    guidance: float | None = None
    against: str = ""
    adapter: str = ""
    train: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class Entry:
    """One table or figure."""

    name: str
    kind: str
    paper: str
    number: str
    title: str
    reference: str = ""  # what the paper's FID is measured to; empty: the model's own 25 steps
    real: bool = False  # whether ours is measured to real images where there are some
    layout: str = ""
    models: tuple[PaperModel, ...] = ()
    rows: tuple[Row, ...] = ()
    parts: tuple[Part, ...] = (Part(),)
    steps: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    zoo_negatives: tuple[str, ...] = ()
    needs_sun: bool = False
    doubt: str = ""  # about every number of the table

    @property
    def protocol(self) -> Protocol:
        """The paper's."""
        return papers()[self.paper]

    def part(self, name: str) -> Part:
        """The part of that name."""
        return next(p for p in self.parts if p.name == name)

    def methods(self, part: str) -> tuple[str, ...]:
        """Methods of one part, each once."""
        return tuple(dict.fromkeys(r.method for r in self.rows if r.part == part and r.method))


def _table() -> JsonObject:
    text = resources.files("sunbench.paper").joinpath("papers.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def papers() -> dict[str, Protocol]:
    """The papers by short name."""
    return {name: Protocol(**values) for name, values in _table()["papers"].items()}


def _entry(name: str, kind: str, values: JsonObject) -> Entry:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    fields["models"] = tuple(PaperModel(*m) for m in values.get("models", []))
    fields["rows"] = tuple(Row(*r) for r in values.get("rows", []))
    fields["parts"] = tuple(Part(**p) for p in values.get("parts", [{}]))
    return Entry(name=name, kind=kind, **fields)


@cache
def entries() -> dict[str, Entry]:
    """Every table and figure by name."""
    table = _table()
    return {
        name: _entry(name, kind, values)
        for group, kind in KINDS.items()
        for name, values in table[group].items()
    }


def find_entry(name: str) -> Entry:
    """The table or figure of that name; UserError with the nearest match for an unknown one."""
    if name not in entries():
        raise unknown("paper table", name, entries())
    return entries()[name]
