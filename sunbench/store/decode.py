"""From parsed JSON to typed documents: dataclasses, strictly, one line for what does not fit."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sunbench.errors import UserError

T = TypeVar("T")


def decode(kind: type[T], record: Any, where: str) -> T:
    """The dataclass of a JSON object that has its fields and no others.

    Fields may be str, bool, int (64 bits), float (finite), Literal, None in a union, tuple[X, ...],
    a NamedTuple, dict[str, X], list[X], another dataclass, or Any for free JSON. Raises UserError,
    which names ``where`` and the field.
    """
    if not isinstance(record, Mapping):
        raise _misfit(where, record, "an object")
    hints = _hints(kind)  # type: ignore[arg-type]  # classes are hashable
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    words = [f"no {n}" for n in names if n not in record]
    words += [f"unknown {n}" for n in record if n not in names]
    if words:
        raise UserError(f"{where}: given {', '.join(words)}; expected {', '.join(names)}")
    values = {n: _value(hints[n], record[n], f"{where}, {n}") for n in names}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    """A class's annotations, evaluated once: documents have tens of thousands of rows."""
    return get_type_hints(kind)


def _misfit(where: str, value: Any, expected: str) -> UserError:
    text = repr(value)
    return UserError(f"{where}: given {text[:60]}{'...' * (len(text) > 60)}, expected {expected}")


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return _free(value, where)
    if kind in (str, bool, int, float):
        return _plain(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(args, value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise _misfit(where, value, f"one of {', '.join(map(repr, args))}")
        return value
    if origin in (dict, Mapping):
        return {
            _text(k, where): _value(args[1], v, f"{where}, {k[:60]}")
            for k, v in _typed(dict, value, where).items()
        }
    if origin in (tuple, list):
        items = _typed(list, value, where)
        return origin(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(items))
    if isinstance(kind, type) and is_dataclass(kind):
        return decode(kind, value, where)
    return _named_tuple(kind, value, where)


def _plain(kind: type, value: Any, where: str) -> Any:
    number = type(value) in (int, float) if kind is float else type(value) is kind
    if not number:
        raise _misfit(where, value, {"str": "text"}.get(kind.__name__, kind.__name__))
    if kind is str:
        return _text(value, where)
    if kind is int and not -(2**63) <= value < 2**63:
        raise _misfit(where, value, "an integer of 64 bits")
    return _finite(value, where) if kind is float else value


def _text(value: str, where: str) -> str:
    """Text that can be written; a JSON escape may spell half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _misfit(where, value, "text in UTF-8") from None
    return value


def _finite(value: float, where: str) -> float:
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise _misfit(where, value, "a finite number")
    return as_float


def _free(value: Any, where: str) -> Any:
    """Any JSON value whose texts and numbers can be written again."""
    if isinstance(value, dict):
        return {_text(k, where): _free(v, f"{where}, {k[:60]}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_free(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float):
        return _finite(value, where)
    return value


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in (k for k in kinds if k is not type(None)):
        try:
            return _value(kind, value, where)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _typed(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise _misfit(where, value, {"dict": "an object", "list": "a list"}[kind.__name__])
    return value


def _named_tuple(kind: Any, value: Any, where: str) -> Any:
    """A NamedTuple from a list of as many values."""
    items, hints = _typed(list, value, where), _hints(kind)
    if len(items) != len(hints):
        raise _misfit(where, value, f"{len(hints)} values: {', '.join(hints)}")
    typed = zip(hints.items(), items, strict=True)
    return kind(*(_value(hint, item, f"{where}, {name}") for (name, hint), item in typed))
