"""Whether a folder may become a run's: nothing of the user's is overwritten or removed."""

from __future__ import annotations

from pathlib import Path

from sunbench.errors import UserError
from sunbench.store import RunFolder, write_atomic

#: The file by which an unfinished run is known; a finished one is known by its run.json as well.
MARKER = ".sunbench-run"
_TEXT = b"This folder is written by sunbench; `sunbench run` with the same --out resumes it.\n"


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
    write_atomic(folder / MARKER, _TEXT)


def _is_run(folder: Path) -> bool:
    try:
        document = RunFolder(folder).read_run()
    except UserError:
        return False
    return {"request", "models"} <= document.keys()
