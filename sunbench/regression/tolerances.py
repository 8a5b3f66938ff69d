"""How far each metric may go before a run is worse than its baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.metrics import Tolerance
from sunbench.metrics.registry import find_metric, metrics
from sunbench.store.files import read_toml


def load_tolerances(path: Path | None = None) -> dict[str, Tolerance]:
    """The metrics' own tolerances, those of a TOML put over them.

    The TOML has a table per metric ("fd") or column ("fd[zoo-clip]", which goes before), each with
    absolute, relative and, if wanted, moved (`metrics.Tolerance`).
    """
    tolerances = {name: metric.tolerance for name, metric in metrics().items()}
    if path is not None:
        tolerances |= _tolerances(read_toml(path), str(path))
    return tolerances


def _tolerances(tables: Mapping[str, Any], name: str) -> dict[str, Tolerance]:
    for metric in tables:
        find_metric(metric)
    return {m: _tolerance(table, f"{name}, {m}") for m, table in tables.items()}


def _tolerance(table: Any, where: str) -> Tolerance:
    known, needed = {f.name for f in fields(Tolerance)}, {"absolute", "relative"}
    good = isinstance(table, dict) and needed <= table.keys() <= known
    if not good or not all(type(x) in (int, float) and 0 <= x < math.inf for x in table.values()):
        raise UserError(
            f"{where}: given {table}, expected absolute, relative and at will moved, from 0 on"
        )
    return Tolerance(**table)


def tolerance_of(metric: str, table: Mapping[str, Tolerance]) -> Tolerance:
    """The tolerance of a column: its own before its metric's."""
    name = find_metric(metric).metric.name
    if metric not in table and name not in table:
        raise UserError(f"given no tolerance for {metric}, expected one in the TOML")
    return table.get(metric) or table[name]
