"""What the libraries raise on bad weights, told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError

from sunbench.errors import UserError

BAD_WEIGHTS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    SingleFileComponentError,
    SafetensorError,
)


def first_sentence(error: BaseException) -> str:
    """Give the first sentence of a library's advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].strip()


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn a library's error into a UserError that starts with `what`; UserErrors pass."""
    try:
        yield
    except UserError:
        raise
    except BAD_WEIGHTS as error:
        raise UserError(f"{what} cannot be loaded: {first_sentence(error)}") from error
