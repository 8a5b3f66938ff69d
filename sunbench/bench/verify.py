"""Checking everything that a finished run rests on; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sunbench.bench.handles import check_pairs
from sunbench.bench.per_image import Texts, open_side, read_scores
from sunbench.errors import UserError
from sunbench.paths import cell_folder
from sunbench.sampling import Cell
from sunbench.store import CellContent, CellRecord, CellStore, ModelRecord, RunFolder, key


def verify_store(folder: Path, content: dict[str, Any]) -> list[str]:
    """Problems of one cell: its key, missing or broken shards."""
    if not folder.is_dir():
        return [f"{folder.name}: the cell's folder is missing"]
    shards = CellContent.of(content, folder.name).shards
    label = Cell.from_content(content).label
    try:
        store = CellStore(folder, content, repair=False)
    except UserError as error:
        return [str(error)]
    out = []
    for k in range(shards):
        try:
            if not store.has_shard(k):
                out.append(f"{label}: shard {k} is missing or broken")
        except UserError as error:
            out.append(str(error))
    return out


def verify_run(path: Path) -> tuple[int, list[str]]:
    """Cells checked and problems: every checksum, key, pairing and paired value of a run."""
    run = RunFolder(path)
    rows, document = run.read_results(), run.read_run()
    problems = _nonsense(document.models)
    whole: dict[str, bool] = {}
    for model in document.models:
        for record in (c for c in model.all_cells if c.skip is None):
            found = _cell(path, record)
            whole[record.key] = not found
            problems += found
        problems += _pairs(path, model, whole)
    named = {c.key for model in document.models for c in model.cells}
    problems += [f"{r.name}: run.json has no cell {r.key}" for r in rows if r.key not in named]
    if not problems:
        problems += _values(path)
    return len(whole), problems


def _nonsense(models: tuple[ModelRecord, ...]) -> list[str]:
    """What a run cannot be without: models, each with a reference that was sampled."""
    if not models:
        return ["run.json: no models"]
    out = []
    for model in models:
        reference = model.of_role("reference")
        if reference is None or reference.skip is not None:
            out.append(f"{model.name}: run.json has no sampled reference")
        for cell in model.cells:
            weights = cell.about.weights
            if any(model.weights.get(name) != value for name, value in weights.items()):
                out.append(f"{cell.label}: its weights are not those of its model in run.json")
    return out


def _cell(path: Path, record: CellRecord) -> list[str]:
    if key(record.content) != record.key:
        return [f"{record.label}: its key is not that of its content"]
    return verify_store(cell_folder(path, record.role, record.key), record.content)


def _pairs(path: Path, model: ModelRecord, whole: dict[str, bool]) -> Iterator[str]:
    """A line for each candidate that is not paired with the reference."""
    reference = model.of_role("reference")
    if reference is None or not whole.get(reference.key):
        return
    theirs = _open(path, reference)
    for record in model.cells:
        if record.role == "candidate" and whole.get(record.key):
            mine, cell = _open(path, record), Cell.from_content(record.content)
            try:
                for k in range(record.about.shards):
                    check_pairs(cell, mine.read_rows(k), theirs.read_rows(k))
            except (UserError, ValueError) as error:
                yield str(error)


def _open(path: Path, record: CellRecord) -> CellStore:
    return CellStore(cell_folder(path, record.role, record.key), record.content, repair=False)


def _values(path: Path) -> list[str]:
    """Values of results.json that are not the mean of the stored scores of their cells."""
    try:
        read_scores(open_side(path), Texts())
    except UserError as error:
        return [str(error)]
    return []
