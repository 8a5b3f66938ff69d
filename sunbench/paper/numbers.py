"""The papers' numbers, re-typed by us: a CSV per table, a line per number, our doubts beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Printed:
    """One number of a paper.

    text: as printed, with its digits. labels: the columns that say where it stands.
    doubt: what is garbled, copied or unlikely about it; empty for nothing.
    """

    text: str
    doubt: str
    labels: tuple[tuple[str, str], ...]

    @property
    def value(self) -> float:
        """As a number."""
        return float(self.text)

    def __getitem__(self, column: str) -> str:
        return dict(self.labels)[column]

    @property
    def steps(self) -> int:
        """Its column of steps."""
        return int(self["steps"])


def _lines(name: str) -> Iterator[dict[str, str]]:
    text = resources.files("sunbench.paper").joinpath(f"tables/{name}.csv").read_text("utf-8")
    yield from csv.DictReader(io.StringIO(text))


@cache
def printed(name: str) -> tuple[Printed, ...]:
    """All numbers of one table, in the paper's order."""
    return tuple(
        Printed(
            line["value"],
            line["doubt"],
            tuple((k, v) for k, v in line.items() if k not in ("value", "doubt")),
        )
        for line in _lines(name)
    )


def shipped() -> list[str]:
    """Names of the tables that come along."""
    folder = resources.files("sunbench.paper").joinpath("tables")
    return sorted(f.name.removesuffix(".csv") for f in folder.iterdir() if f.name.endswith(".csv"))


def lookup(name: str, **labels: str) -> float:
    """The one number with these labels; KeyError when there is none or more than one."""
    matches = [p for p in printed(name) if all(p[k] == v for k, v in labels.items())]
    if len(matches) != 1:
        raise KeyError(f"{name}: {len(matches)} numbers at {labels}")
    return matches[0].value
