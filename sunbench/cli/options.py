"""What several commands share of their options, and how text becomes values."""

from __future__ import annotations

from typing import Annotated

import typer

from sunbench.errors import UserError

WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="METHOD[@MODEL]=PATH",
        help="A method's trained weights: a path or hub id, for all models or one; repeatable.",
    ),
]


def names(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(t.strip() for t in text.split(",") if t.strip())


def numbers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers between commas; what: their name in the error."""
    try:
        return tuple(int(t) for t in names(text))
    except ValueError:
        raise UserError(f"given {what} {text!r}, expected whole numbers like 4,8") from None


def seed_list(text: str) -> tuple[int, ...]:
    """``3`` means seeds 0, 1, 2; ``0,7`` means those two."""
    given = numbers(text, "seeds")
    return given if "," in text else tuple(range(given[0])) if given else ()


def weights_table(given: list[str] | None) -> dict[str, str]:
    """METHOD=PATH and METHOD@MODEL=PATH as a table."""
    table: dict[str, str] = {}
    for text in given or []:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"given weights {text!r}, expected METHOD=PATH or METHOD@MODEL=PATH")
        if name in table:
            raise UserError(f"given weights for {name} twice, expected once")
        table[name] = path
    return table


def best_device() -> str:
    """cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
