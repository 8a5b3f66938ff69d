"""Runs that leave their machine: references beside their candidates, and two runs as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sunbench.bench.claim import MARKER, claim
from sunbench.bench.outcome import Outcome
from sunbench.bench.recompute import recompute
from sunbench.errors import UserError
from sunbench.paths import cell_folder, own_reference
from sunbench.store import CellRecord, ModelRecord, ResultRow, Results, RunFolder
from sunbench.store.documents import TimingRow
from sunbench.store.files import link_or_copy, make_folder


def export_run(run: Path, to: Path | None = None, *, references: bool = False) -> Path:
    """Make a finished run a folder that can be copied anywhere; returns the folder.

    to: a new folder; None is the run's own. references: also put the cells in that the cache keeps,
    so that the copy can be verified, compared and reported without it.
    Errors: UserError for a run that is not finished, or whose cells are not there.
    """
    folder = RunFolder(run)
    folder.require_finished()
    cells = [c for m in folder.read_run().models for c in m.all_cells if c.skip is None]
    target = run if to is None else to
    if to is not None:
        claim(to)
        _link_tree(run, to, skip=(MARKER, "lock"))
    if references:
        for cell in cells:
            if cell.role != "candidate" and (source := _stored(run, cell)) != own_reference(
                target, cell.key
            ):
                _link_tree(source, own_reference(target, cell.key))
    return target


def _stored(run: Path, cell: CellRecord) -> Path:
    folder = cell_folder(run, cell.role, cell.key)
    if not (folder / "cell.json").exists():
        raise UserError(
            f"{run}: its {cell.label} is not in {folder.parent}; name the cache that the run was"
            " made with in SUNBENCH_CACHE"
        )
    return folder


def _link_tree(source: Path, target: Path, skip: Iterable[str] = ()) -> None:
    """The files of a folder in another, as links where they can be; hidden ones stay."""
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        hidden = file.name.startswith(".") or file.suffix == ".broken"
        if file.is_file() and not hidden and file.name not in skip and target not in file.parents:
            make_folder(place.parent)
            link_or_copy(file, place)


# ------------------------------------------------------------------------------ merging


def merge_runs(a: Path, b: Path, out: Path) -> Outcome:
    """Two finished runs on the same references as one, with every comparison between their methods.

    Values are computed again from what the cells store; nothing is sampled. A cell that both hold
    is taken from the first. Errors: UserError for runs of other references, metrics or prompts.
    """
    documents = [RunFolder(p).read_run() for p in (a, b)]
    results = [_finished(p) for p in (a, b)]
    models = _merged([d.models for d in documents])
    claim(out)
    for path, document in zip((b, a), documents[::-1], strict=True):
        for cell in (c for m in document.models for c in m.all_cells if c.skip is None):
            source = _stored(path, cell)
            if cell.role == "candidate":
                _link_tree(source, out / "cells" / cell.key)
            elif own_reference(path, cell.key) == source:
                _link_tree(source, own_reference(out, cell.key))
    rows = [r for result in results for r in result.rows]
    outcome = Outcome()
    for model in models:
        own = [r for r in rows if r.model == model.name]
        own.sort(key=lambda r: r.role != "candidate")  # they have every metric, in its order
        _check_metrics(model.name, own)
        _add(outcome, recompute(out, model, own, documents[0].budgets)[0])
    outcome.times = _times([r.timing for r in results])
    outcome.requirements = list(
        {(r.model, r.method): r for s in results[::-1] for r in s.requirements}.values()
    )
    RunFolder(out).write_run(replace(documents[0], models=tuple(models)))
    RunFolder(out).write_results(_results(outcome))
    return outcome


def _finished(path: Path) -> Results:
    folder = RunFolder(path)
    folder.require_finished()
    return folder.read_results_document()


def _merged(sides: list[tuple[ModelRecord, ...]]) -> list[ModelRecord]:
    """The models of both, those that both hold with the cells of both."""
    out = {m.name: m for m in sides[0]}
    for model in sides[1]:
        first = out.setdefault(model.name, model)
        mine, theirs = first.of_role("reference"), model.of_role("reference")
        if mine is None or theirs is None or mine.key != theirs.key:
            raise UserError(
                f"{model.name}: given runs with references {mine and mine.key} and"
                f" {theirs and theirs.key}, expected one reference"
            )
        known = {(c.role, c.key) for c in first.cells}
        more = tuple(c for c in model.cells if (c.role, c.key) not in known)
        out[model.name] = replace(first, cells=first.cells + more)
    return list(out.values())


def _check_metrics(model: str, rows: list[ResultRow]) -> None:
    """UserError where a candidate lacks a metric that another has."""
    candidates = [r for r in rows if r.role == "candidate"]
    every = {r.metric for r in candidates}
    for method in {r.method for r in candidates}:
        if missing := every - {r.metric for r in candidates if r.method == method}:
            raise UserError(
                f"{model}: {method} has no {', '.join(sorted(missing))}, expected runs of the same"
                " metrics"
            )


def _times(sides: list[tuple[TimingRow, ...]]) -> list[TimingRow]:
    """Times of the first run, and of the second for models that only it timed.

    A speed-up is a ratio within one pass: rows of two passes do not mix.
    """
    timed = {t.model for t in sides[0]}
    return [*sides[0], *(t for t in sides[1] if t.model not in timed)]


def _add(outcome: Outcome, more: Outcome) -> None:
    for name in ("rows", "pairs", "set_pairs", "finite_n"):
        getattr(outcome, name).extend(getattr(more, name))


def _results(outcome: Outcome) -> Results:
    return Results(
        rows=tuple(outcome.rows),
        pairs=tuple(outcome.pairs),
        set_pairs=tuple(outcome.set_pairs),
        finite_n=tuple(outcome.finite_n),
        timing=tuple(outcome.times),
        requirements=tuple(outcome.requirements),
    )
