"""Where sunbench keeps what outlives a run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """``SUNBENCH_CACHE``, or ``sunbench`` in the user's cache folder."""
    named = os.environ.get("SUNBENCH_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sunbench"


def reference_sets() -> Path:
    """Where references and floors are kept, shared between runs."""
    return cache_root() / "reference_sets"


def own_reference(run: Path, key: str) -> Path:
    """Where a run keeps a reference or floor itself, once it was exported with them."""
    return run / "references" / key


def cell_folder(run: Path, role: str, key: str) -> Path:
    """Where a cell of this role is kept: candidates in their run, the rest in the cache.

    A run that was exported with its references has them itself.
    """
    if role == "candidate":
        return run / "cells" / key
    own = own_reference(run, key)
    return own if own.is_dir() else reference_sets() / key
