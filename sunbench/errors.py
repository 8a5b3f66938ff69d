"""The one error that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one clear line saying what was given and what was expected (exit code 2)."""


class NotAvailable(UserError):
    """Weights or data that cannot be had here and now, such as offline; a run goes on without."""


class MissingFile(UserError):
    """There is no file of this name."""


class UnreadableFile(UserError):
    """A file that is there and that the system refuses: permissions, a failing disk."""


class CannotSample(UserError):
    """A method that cannot make a cell's images; a run says why in the cell, and goes on."""


class NotFinite(CannotSample):
    """NaN or infinity where an image was to be."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An unknown name, with its nearest match."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
    return UserError(f"unknown {kind} {name!r}; {hint}")
