"""The papers' numbers, re-typed by us: a CSV per table, a line per number, our doubts beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import pandas as pd


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


def _lines(name: str) -> list[dict[str, str]]:
    file = resources.files("sunbench.paper").joinpath(f"tables/{name}.csv")
    with file.open(encoding="utf-8") as lines:
        return pd.read_csv(lines, dtype=str, keep_default_na=False).to_dict("records")


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
