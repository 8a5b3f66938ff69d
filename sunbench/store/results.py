"""One row per model x method x steps x metric: the numbers of a run, and why one is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sunbench.errors import UserError
from sunbench.store.decode import decode

Role = Literal["candidate", "reference", "floor", "source"]


def budget_of(nfe: float, budgets: Sequence[int]) -> int | None:
    """The smallest budget that pays for these evaluations; None above them all."""
    return min((b for b in budgets if nfe <= b), default=None)


@dataclass(frozen=True)
class ResultRow:
    """One number with its interval, protocol and cell key; without a value, the reason why.

    method: registry name, of the floor that of its reference. n: images behind the value. nfe:
    U-Net evaluations per image, their mean where they vary. protocol: how it was measured.
    feature_key: first 8 hex digits of the weight hash of the feature network behind the value, ""
    for none. key: of the cell.
    relative: the distance over the floor's: 0 is the same image, 1 another seed of the same prompt.
    Errors: UserError for NaN, infinities, an interval without a value, or no value and no reason.
    """

    model: str
    method: str
    role: Role
    steps: int
    task: str
    prompts: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    nfe: float | None
    protocol: str
    feature_key: str
    reason: str | None
    key: str
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "relative", "relative_low", "relative_high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise UserError(f"{self.name}: given {name} {number}, expected a finite number")
        if (self.value is None) == (self.reason is None):
            raise UserError(
                f"{self.name}: given value {self.value} and reason {self.reason!r}, "
                "expected one of the two"
            )
        self._check_interval()

    def _check_interval(self) -> None:
        low, high = self.low, self.high
        alone = (low is None) != (high is None) or (low is not None and self.value is None)
        if alone or (low is not None and high is not None and low > high):
            raise UserError(
                f"{self.name}: given value {self.value} in {low} to {high}, "
                "expected an interval low <= high around a value"
            )

    @property
    def name(self) -> str:
        """The row in words, for messages."""
        method = self.method if self.role == "candidate" else f"the {self.role}, {self.method},"
        return f"{self.metric} of {method} at {self.steps} steps on {self.model}"

    @property
    def place(self) -> tuple[str, str, str, int, str, str, str, str]:
        """Where the row stands in a table; a run has one row per place."""
        cell = (self.model, self.role, self.method, self.steps, self.task, self.prompts)
        return (*cell, self.metric, self.key)

    def to_json(self) -> dict[str, object]:
        """The row as a JSON-able object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Any, where: str) -> ResultRow:
        """The row in a parsed JSON object; UserError naming ``where`` for anything else."""
        return decode(cls, record, where)


def check_distinct(rows: Sequence[ResultRow]) -> None:
    """UserError when two rows stand in the same place of the tables."""
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        if row.place in seen:
            raise UserError(f"given two rows of {row.name} (cell {row.key}), expected one")
        seen.add(row.place)
