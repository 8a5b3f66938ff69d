"""Rules for the values of cards and configs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A test of a value, and the words for what passes it."""

    test: Callable[[Any], bool]
    expected: str


def is_number(value: object) -> bool:
    """A finite number; whole numbers of hundreds of digits are none, as they have no float."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return whole or (isinstance(value, float) and math.isfinite(value))


def optional(rule: Rule) -> Rule:
    """The rule, or None."""
    return Rule(lambda value: value is None or rule.test(value), rule.expected)


def one_of(names: tuple[str, ...]) -> Rule:
    """One of these names."""
    return Rule(lambda value: value in names, f"one of {', '.join(names)}")
