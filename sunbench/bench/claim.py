"""Whether a folder may become a run's: nothing of the user's is overwritten or removed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.store import RunFolder, write_atomic
from sunbench.store.files import read_versioned, to_json

#: The file by which a folder of a run is known, and what a finished one rests on.
MARKER = ".sunbench-run"
SCHEMA_VERSION = 1
_ABOUT = "This folder is written by sunbench; `sunbench run` with the same --out resumes it."


def claim(folder: Path) -> None:
    """Create a run's folder, or take one that is empty or a run's already; else UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot write the run to {folder}: {error.strerror or error}") from error
    if MARKER in entries:
        return
    if entries and not _is_run(folder):
        raise UserError(
            f"given output folder {folder}, which holds {entries[0]!r} and no run, expected a new"
            " or empty folder, or that of an earlier run"
        )
    write_marker(folder, None)


def write_marker(folder: Path, finished: Mapping[str, object] | None) -> None:
    """Mark a folder as a run's; finished: what its results rest on."""
    document = {"schema_version": SCHEMA_VERSION, "about": _ABOUT, "finished": finished}
    write_atomic(folder / MARKER, to_json(document))


def read_marker(folder: Path) -> Any:
    """What a finished run's results rest on, or None."""
    return read_versioned(folder / MARKER, SCHEMA_VERSION, "`sunbench run`").get("finished")


def _is_run(folder: Path) -> bool:
    try:
        RunFolder(folder).read_run()
    except UserError:
        return False
    return True
