"""Making again what is broken or edited in a finished run, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunbench.bench.claim import read_marker
from sunbench.bench.planner import plan
from sunbench.bench.progress import Progress
from sunbench.bench.request import Request
from sunbench.bench.run import execute
from sunbench.bench.verify import verify_run
from sunbench.errors import UserError
from sunbench.store import CellRecord, RunFolder, key
from sunbench.store.decode import decode


def repair_run(path: Path, progress: Progress | None = None) -> list[str]:
    """Repair a run by its own request: broken or edited files are named and sampled again.

    Returns the problems that were found. Whole shards are kept. Raises UserError for a run whose
    models, methods or versions have changed since, so that its cells cannot be rebuilt.
    """
    problems = _problems(path)
    if problems:
        request = recorded_request(path)
        _check_keys(path, request)
        execute(request, path, progress)
    return problems


def _problems(path: Path) -> list[str]:
    """What `verify_run` finds, or why it cannot read the run."""
    try:
        return verify_run(path)[1]
    except UserError as error:
        return [str(error)]


def recorded_request(path: Path) -> Request:
    """What a run was asked to do, by its marker, or by run.json where it was never finished."""
    try:
        record: Any = (read_marker(path) or {}).get("request")
    except (UserError, AttributeError):
        record = None
    if record is None:
        record = RunFolder(path).read_run().request
    return decode(Request, record, f"{path}, request")


def _check_keys(path: Path, request: Request) -> None:
    """UserError when the request would be answered by other cells than those of the run."""
    planned = {c.key for model in plan(request) for c in model.cells}
    for record in _sound_records(path):
        if record.key not in planned:
            raise UserError(
                f"{path}: {record.label} cannot be rebuilt: its model, method or versions have"
                " changed since; give the run's command with another --out"
            )


def _sound_records(path: Path) -> list[CellRecord]:
    """The cells of run.json whose key is that of their content; none of a broken run.json."""
    try:
        document = RunFolder(path).read_run()
    except UserError:
        return []
    return [c for model in document.models for c in model.cells if key(c.content) == c.key]
