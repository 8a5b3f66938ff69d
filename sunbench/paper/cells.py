"""The paper's value and ours side by side, and why the two cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sunbench.errors import UserError
from sunbench.metrics import Estimate, fd_estimate
from sunbench.metrics.registry import find_metric
from sunbench.models import ModelCard
from sunbench.paper.catalogue import Entry, PaperModel, Row
from sunbench.paper.numbers import Printed, printed
from sunbench.paper.plan import ModelMap, label_of
from sunbench.paper.real import real_features, to_real
from sunbench.paper.runs import PartRun
from sunbench.store import CellReader, CellRecord, ResultRow, RunFolder

#: What the zoo's own data is, in words.
REAL = "real compositions of the same held-out prompts, one for each"
#: The paper prints cosines, our clip_score is 100 times that.
SCALE = {"fid": 1.0, "clip": 100.0, "inception_score": 1.0}


@dataclass(frozen=True)
class TableCell:
    """One number of a paper with ours beside it.

    reasons: why the two cannot be compared, the same for a whole table or for this cell alone.
    missing: why there is no value of ours. metric_here: what ours is. key: of the cell it is from.
    """

    printed: Printed
    row: Row
    model: str
    card: str
    metric: str
    steps: int
    metric_here: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    nfe: float | None = None
    protocol: str = ""
    missing: str | None = None
    reasons: tuple[str, ...] = ()
    key: str = ""


def cells(entry: Entry, models: ModelMap, runs: dict[str, PartRun]) -> list[TableCell]:
    """Every number of the paper's table whose model the table has."""
    rows = {r.name: r for r in entry.rows}
    out = []
    for number, model, steps in places(entry):
        card = models.card(model)
        if card is not None:
            row = rows.get(number["row"]) or Row(number["row"], "", entry.parts[0].name)
            out.append(_cell(entry, number, row, card, runs, model, steps))
    return out


def places(entry: Entry) -> list[tuple[Printed, str, int]]:
    """Each number of a table with its model and steps.

    A table of one model does not name it. Where the paper does not say the number of steps, its
    number stands beside ours at each of the entry's.
    """
    out = []
    for number in printed(entry.name):
        own = dict(number.labels)
        model = own.get("model", entry.models[0].name)
        doubts = [d for d in (number.doubt, entry.doubt) if d]
        known = (number.steps,) if "steps" in own else entry.steps
        out += [(replace(number, doubt="; ".join(doubts)), model, n) for n in known]
    return out


def _cell(
    entry: Entry,
    number: Printed,
    row: Row,
    card: ModelCard,
    runs: dict[str, PartRun],
    model: str,
    steps: int,
) -> TableCell:
    run, metric = runs[row.part], number["metric"]
    label = label_of(card, metric)
    paper_model = next(m for m in entry.models if m.name == model)
    empty = TableCell(
        printed=number,
        row=row,
        model=model,
        card=card.name,
        metric=metric,
        steps=steps,
        metric_here=label,
        reasons=why_not_comparable(entry, paper_model, card, run, label),
    )
    absent = run.job.lacking.get(row.method, run.absent)
    if not row.method or absent is not None:
        return replace(empty, missing=absent if row.method else "not part of this suite")
    result = row_of(run.rows, card.name, row.method, steps, label)
    if result is None:
        return replace(empty, missing="not in this run")
    if result.value is None:
        return replace(empty, missing=result.reason, n=result.n)
    measured = _value(entry, row, card, result, runs)
    value, low, high = (None if x is None else x / SCALE[metric] for x in measured)
    own = {name: getattr(result, name) for name in ("n", "nfe", "protocol", "key")}
    return replace(empty, value=value, low=low, high=high, **own)


def row_of(
    rows: tuple[ResultRow, ...], model: str, method: str, steps: int, metric: str
) -> ResultRow | None:
    """One row of a run."""
    place = (model, "candidate", method, steps, metric)
    return next((r for r in rows if (r.model, r.role, r.method, r.steps, r.metric) == place), None)


def _value(
    entry: Entry, row: Row, card: ModelCard, result: ResultRow, runs: dict[str, PartRun]
) -> tuple[float | None, float | None, float | None]:
    """The row's own estimate, or that against real images or another part's reference."""
    run, other = runs[row.part], entry.part(row.part).against
    real = real_features(entry, card, run.request) if _is_frechet(result.metric) else None
    if real is not None:
        e = to_real(CellReader(_record(run.job.folder, result), run.job.folder), real)
    elif other:
        e = across(runs[other].job.folder, run.job.folder, result)
    else:
        return result.value, result.low, result.high
    return (e.value, e.low, e.high) if np.isfinite(e.low) else (e.value, None, None)


def _is_frechet(metric: str) -> bool:
    return metric.startswith(("fid", "fd["))


# ------------------------------------------------------------------------------ across runs


def _recorded(run: Path, model: str, role: str, key: str | None) -> CellRecord:
    for entry in RunFolder(run).read_run().models:
        for c in entry.cells:
            if entry.name == model and c.role == role and key in (None, c.key):
                return c
    raise UserError(f"{run}: no {role} of {model} in its run.json; run it again")


def _record(run: Path, row: ResultRow) -> CellRecord:
    return _recorded(run, row.model, "candidate", row.key)


def across(reference_run: Path, run: Path, row: ResultRow) -> Estimate:
    """Fréchet distance of a row's images to another run's reference, on the row's own network.

    The two runs show the same prompts at the same seeds, so they stay paired.
    """
    net = find_metric(row.metric).net
    reference = CellReader(_recorded(reference_run, row.model, "reference", None), reference_run)
    candidate = CellReader(_record(run, row), run)
    shared = reference.names(f"embed-{net}-") & candidate.names(f"embed-{net}-")
    for name in sorted(shared):
        a, b = reference.feature(name), candidate.feature(name)
        if a is not None and b is not None:
            return fd_estimate(a, b, np.arange(len(a)) // reference.seeds)
    raise UserError(f"{run}: {row.name} and its reference have no features of {net} in common")


# ------------------------------------------------------------------------------ reasons


def why_not_comparable(
    entry: Entry, paper_model: PaperModel, card: ModelCard, run: PartRun, label: str
) -> tuple[str, ...]:
    """Why a value of this table cannot be set against the paper's."""
    p, request = entry.protocol, run.request
    stands_in = f"model: {card.name} stands in for {paper_model.name}"
    out = [] if card.name == paper_model.card else [stands_in]
    if label.startswith("clip_score"):
        out.append(f"metric: {label} / 100; which CLIP the paper took is unsaid")
    elif label.startswith("zero_shot"):
        out.append(
            "metric: zero-shot class probabilities of the zoo's scorer over the zoo's own things,"
            " not Inception's over ImageNet: at most as many as there are things"
        )
    elif label == "inception_score":
        pass
    elif label != "fid":
        out.append(f"metric: {label} is not Inception FID")
    if entry.reference and _is_frechet(label):
        real = real_features(entry, card, request) is not None
        ours = REAL if real else "the model's own 25-step DPM-Solver++ images"
        out.append(f"reference: {ours}; the paper measured to {entry.reference}")
    out.append(f"prompts: {_prompts(run, card)}; the paper's were {p.paper_prompts}")
    if request.images != p.images:
        out.append(f"N: {request.images:,} images, the paper's {p.images:,}; FID depends on N")
    out += _settings(entry, card, run)
    return tuple(out)


def _prompts(run: PartRun, card: ModelCard) -> str:
    """The set's name; of a file no more than its name, for tables travel."""
    spec = run.request.prompts or card.prompts
    return run.rows[0].prompts if run.rows else Path(spec).name


def _settings(entry: Entry, card: ModelCard, run: PartRun) -> list[str]:
    p, request, out = entry.protocol, run.request, []
    side = request.resolution or card.resolution
    if side != p.resolution:
        out.append(f"size: {side}x{side} pixels, the paper's {p.resolution}x{p.resolution}")
    if run.job.part.guidance is None:
        scale = card.guidance_scale if request.guidance_scale is None else request.guidance_scale
        if scale != p.guidance:
            out.append(f"guidance: {scale:g}, the paper's {p.guidance:g}")
    return out


def floors(runs: dict[str, PartRun], models: ModelMap, metric: str = "fid") -> list[ResultRow]:
    """The reference against itself at other seeds, one row per model."""
    out = []
    for card in models.cards:
        label = label_of(card, metric)
        rows = [r for f in runs.values() for r in f.rows if r.role == "floor"]
        out += [r for r in rows if (r.model, r.metric) == (card.name, label)][:1]
    return out
