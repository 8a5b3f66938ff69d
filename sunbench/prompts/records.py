"""From records (rows of named columns) to prompts; each defect is named with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sunbench.errors import UserError, unknown
from sunbench.prompts.rows import Prompt, text_ids

PROMPT_COLUMNS = ("prompt", "caption", "text")
NEGATIVE_COLUMNS = ("negative", "negative_prompt")


@dataclass(frozen=True)
class Record:
    """One row of a file, with its place for messages, e.g. ``captions.csv line 3``."""

    place: str
    values: Mapping[str, Any]


def prompt_column(name: str, columns: Sequence[str], column: str | None) -> str:
    """The column that holds the prompts: the one asked for, or a usual name, or the only one."""
    if column is not None:
        if column not in columns:
            raise unknown(f"column of {name}", column, [" ".join(c.split()) for c in columns])
        return column
    usual = [c for c in PROMPT_COLUMNS if c in columns]
    if usual or len(columns) == 1:
        return (usual or list(columns))[0]
    raise UserError(
        f"{name}: given columns {', '.join(map(repr, columns))}; expected one named "
        f"{', '.join(PROMPT_COLUMNS)}, or its name"
    )


def negative_column(columns: Sequence[str]) -> str | None:
    """The column that holds the rows' own negative prompts, if there is one."""
    return next((c for c in NEGATIVE_COLUMNS if c in columns), None)


def _text(record: Record, column: str) -> str:
    """A prompt without outer white space; of several captions the first."""
    value = record.values.get(column)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise UserError(f"{record.place}: given {column} {value!r}, expected a text")
    if not value.strip():
        raise UserError(f"{record.place}: given an empty {column}, expected a prompt")
    _check_unicode(record, column, value)
    return value.strip()


def _check_unicode(record: Record, column: str, value: str) -> None:
    """Refuse half characters (lone surrogates), which have no bytes and so no hash."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{record.place}: given {column} with a broken character") from None


def _optional(record: Record, column: str) -> str:
    value = record.values.get(column)
    return "" if value is None or value == "" else _negative(record, column, value)


def _negative(record: Record, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{record.place}: given {column} {value!r}, expected a text")
    _check_unicode(record, column, value)
    return value.strip()


def _given_ids(records: Sequence[Record]) -> list[str]:
    """The ``id`` column; UserError when one is empty, no name, or used twice."""
    first: dict[str, str] = {}
    for record in records:
        value = record.values.get("id")
        if type(value) not in (str, int) or not (name := str(value).strip()):
            raise UserError(f"{record.place}: given id {value!r}, expected a name or a number")
        _check_unicode(record, "id", name)
        if name in first:
            raise UserError(f"{record.place}: given id {name!r} a second time ({first[name]})")
        first[name] = record.place
    return list(first)


def prompts(
    records: Iterable[Record], column: str, *, negative: str | None = None, ids: bool = False
) -> tuple[Prompt, ...]:
    """Prompts from a column, negatives from another; ids from the column ``id`` or the texts."""
    rows = list(records)
    texts = [_text(r, column) for r in rows]
    names = _given_ids(rows) if ids else text_ids(texts)
    negatives = [_optional(r, negative) if negative else "" for r in rows]
    return tuple(Prompt(*row) for row in zip(names, texts, negatives, strict=True))
