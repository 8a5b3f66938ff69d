"""Losses sent to TensorBoard, Weights & Biases or another tracker that accelerate knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from sunbench.errors import UserError, unknown

#: (updates done, values by name) -> nothing.
Log = Callable[[int, dict[str, float]], None]


def _known() -> dict[str, Any]:
    return {str(key): kind for key, kind in LOGGER_TYPE_TO_CLASS.items()}


def check_tracker(name: str) -> None:
    """Raise UserError unless the tracker is known and its package is installed."""
    if name not in _known():
        raise unknown("track", name, _known())
    if name not in [str(tracker) for tracker in get_available_trackers()]:
        raise UserError(f"given track = {name!r}, expected an installed one: pip install {name}")


def open_tracker(name: str, run: str, folder: Path) -> Log:
    """Start a run of a tracker; what it writes to disk goes into ``folder``."""
    kind = _known()[name]
    where = {"logging_dir": folder} if kind.requires_logging_directory else {}
    tracker = kind(run, **where)
    tracker.start()

    def log(step: int, values: dict[str, float]) -> None:
        tracker.log(values, step=step)

    return log
