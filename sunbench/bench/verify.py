"""Checking everything that a finished run rests on; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sunbench.bench.claim import read_marker
from sunbench.bench.recompute import recompute
from sunbench.errors import UserError
from sunbench.metrics.registry import find_metric
from sunbench.paths import cell_folder
from sunbench.sampling import Cell
from sunbench.store import (
    CellContent,
    CellReader,
    CellRecord,
    CellStore,
    ModelRecord,
    Results,
    RunDocument,
    RunFolder,
    key,
    mispaired,
    sha256_file,
)
from sunbench.timing.rows import derived_again

#: How far a number may be from the same computed again, relative to itself (to 0.1 at least):
#: libraries sum in another order, and text may be embedded on another device.
AGREE, TEXT_AGREE = 1e-5, 1e-3
_PARTS = ("rows", "pairs", "set_pairs", "finite_n", "timing")


def verify_store(folder: Path, content: Mapping[str, object]) -> list[str]:
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
    """Cells checked and problems: every checksum, key, pairing and number of a run."""
    run = RunFolder(path)
    rows, document = run.read_results(), run.read_run()
    problems = _nonsense(document.models)
    whole: dict[tuple[str, str], bool] = {}
    for model in document.models:
        for record in (c for c in model.all_cells if c.skip is None):
            wrong = _cell(path, record)
            whole[record.role, record.key] = not wrong
            problems += wrong
        problems += _pairs(path, model, whole)
    named = {c.key for model in document.models for c in model.cells}
    problems += [f"{r.name}: run.json has no cell {r.key}" for r in rows if r.key not in named]
    if not problems:
        problems += _values(path, document, run.read_results_document())
    return len(whole), problems or _edited(run)


def _edited(run: RunFolder) -> list[str]:
    """Documents that the run's marker says were otherwise when the run was finished."""
    try:
        finished = read_marker(run.path) or {}
    except UserError:  # a baseline, or a run of another machine without its marker
        return []
    files = [f for f in (run.run_file, run.results_file) if finished.get(f.name)]
    return [
        f"{f.name}: changed since the run was finished"
        for f in files
        if sha256_file(f) != finished[f.name]
    ]


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


def _pairs(path: Path, model: ModelRecord, whole: dict[tuple[str, str], bool]) -> Iterator[str]:
    """A line for each candidate that is not paired with the reference."""
    reference = model.of_role("reference")
    if reference is None or not whole.get((reference.role, reference.key)):
        return
    for record in model.cells:
        if record.role == "candidate" and whole.get((record.role, record.key)):
            try:
                problem = mispaired(
                    CellReader(record, path).rows(), CellReader(reference, path).rows()
                )
            except UserError as error:
                yield str(error)
            else:
                yield from () if problem is None else (f"{record.label}, {problem}",)


def _values(path: Path, document: RunDocument, results: Results) -> Iterator[str]:
    """Numbers of results.json that the stored features and times do not give."""
    black = 0
    for model in document.models:
        parts: dict[str, Any] = {
            n: tuple(r for r in getattr(results, n) if r.model == model.name) for n in _PARTS
        }
        of_model = replace(results, **parts)
        try:
            outcome, left_out = recompute(path, model, of_model.rows, document.budgets)
        except UserError as error:
            yield str(error)
            continue
        black += outcome.black
        for part in _PARTS[:4]:
            yield from _unlike(part, getattr(of_model, part), getattr(outcome, part), left_out)
        yield from _unlike("timing", of_model.timing, derived_again(of_model.timing), set())
    if black != document.black_images:
        yield f"run.json: given {document.black_images} black images, the shards hold {black}"


def _unlike(
    part: str, stated: Sequence[Any], again: Sequence[Any], left_out: set[str]
) -> Iterator[str]:
    """A line for each record that is missing, added, or holds another number."""
    mine, theirs = (
        {_place(r): r for r in records if getattr(r, "metric", None) not in left_out}
        for records in (stated, again)
    )
    for place in [*mine, *(p for p in theirs if p not in mine)]:
        name = ", ".join(map(str, place))
        if place not in mine or place not in theirs:
            where = "the run's cells" if place in mine else "results.json"
            yield f"results.json, {part}: {name} is not in {where}"
            continue
        limit = _limit(getattr(mine[place], "metric", None))
        for f in fields(mine[place]):
            a, b = getattr(mine[place], f.name), getattr(theirs[place], f.name)
            if not _agree(a, b, limit):
                name = getattr(mine[place], "name", name)
                yield f"results.json: {name}: given {f.name} {a}, the stored cells give {b}"


def _place(record: Any) -> tuple[Any, ...]:
    names = ("model", "role", "method", "a", "b", "steps", "steps_b", "metric", "batch", "key")
    held = (getattr(record, n, None) for n in names)
    return tuple(value for value in held if value is not None)


def _limit(metric: str | None) -> float:
    return TEXT_AGREE if metric and find_metric(metric).metric.compares == "text" else AGREE


def _agree(a: Any, b: Any, limit: float) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_agree(x, y, limit) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= limit * max(abs(a), abs(b), 0.1)
    return bool(a == b)
