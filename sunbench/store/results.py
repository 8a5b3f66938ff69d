"""One row per model x method x steps x metric: the numbers of a run, and why one is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sunbench.errors import UserError


@dataclass(frozen=True)
class ResultRow:
    """One number with its interval, protocol and cell key; without a value, the reason why.

    n: images behind the value. nfe: U-Net evaluations of one image. protocol: how it was measured.
    relative: the distance over the floor's: 0 is the same image, 1 another seed of the same prompt.
    Errors: UserError for NaN, infinities, an interval without a value, or no value and no reason.
    """

    model: str
    method: str
    steps: int
    task: str
    prompts: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    nfe: int | None
    protocol: str
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
        return f"{self.metric} of {self.method} at {self.steps} steps on {self.model}"

    @property
    def place(self) -> tuple[str, str, int, str, str, str, str]:
        """Where the row stands in a table; a run has one row per place."""
        cell = (self.model, self.method, self.steps, self.task, self.prompts)
        return (*cell, self.metric, self.key)

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON-able object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Any, where: str) -> ResultRow:
        """The row in a parsed JSON object; UserError naming ``where`` for anything else."""
        if not isinstance(record, dict):
            raise UserError(f"{where}: given {type(record).__name__}, expected an object")
        _check_fields(record, where)
        values = {n: _typed(n, record[n], where) for n in _TYPES if n in record}
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


_TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(ResultRow)}


def _check_fields(record: Mapping[str, Any], where: str) -> None:
    missing = [n for n in _TYPES if n not in record and not n.startswith("relative")]
    more = [n for n in record if n not in _TYPES]
    if missing or more:
        words = [f"no {n}" for n in missing] + [f"unknown {n}" for n in more]
        raise UserError(f"{where}: given {', '.join(words)}; expected {', '.join(_TYPES)}")


def _fits(value: Any, kind: str) -> bool:
    wanted, _, optional = kind.partition(" | ")
    if value is None:
        return optional == "None"
    if wanted == "float":
        return type(value) in (int, float)
    return type(value).__name__ == wanted


def _typed(name: str, value: Any, where: str) -> Any:
    if not _fits(value, _TYPES[name]):
        raise UserError(f"{where}: given {name} {value!r}, expected {_TYPES[name]}")
    if _TYPES[name].startswith("float") and value is not None:
        return _as_float(name, value, where)
    return value


def _as_float(name: str, value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{where}: given {name} too large, expected a finite number") from None


def check_distinct(rows: Sequence[ResultRow]) -> None:
    """UserError when two rows stand in the same place of the tables."""
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        if row.place in seen:
            raise UserError(f"given two rows of {row.name} (cell {row.key}), expected one")
        seen.add(row.place)
