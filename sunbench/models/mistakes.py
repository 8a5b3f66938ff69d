"""What the libraries raise on bad weights, told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sunbench.errors import UserError


def first_sentence(error: BaseException) -> str:
    """Give the first sentence of a library's advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].strip()


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn a library's error into a UserError that starts with `what`; UserErrors pass.

    Whatever diffusers, transformers and torch raise on a user's files is the files' fault here.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be loaded: {first_sentence(error)}") from error
