"""Cells in the paper's shape: a row for the paper's values, a row for ours below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sunbench.metrics.registry import find_metric
from sunbench.paper.catalogue import Entry
from sunbench.paper.cells import TableCell
from sunbench.paper.page import Marks, Page
from sunbench.paper.plan import ModelMap
from sunbench.report.texts import number
from sunbench.store import ResultRow
from sunbench.store.files import counted

METRIC_NAMES = {"fid": "FID ↓", "clip": "CLIP ↑", "inception_score": "IS ↑"}


@dataclass(frozen=True, order=True)
class Column:
    """A column of the paper's table."""

    model: str
    metric: str
    steps: int


def columns(cells: Sequence[TableCell]) -> list[Column]:
    """The paper's columns in its order."""
    return list(dict.fromkeys(Column(c.model, c.metric, c.steps) for c in cells))


def heads(columns: Sequence[Column]) -> list[str]:
    """Their names; what is the same for all is left out."""
    several_models = len({c.model for c in columns}) > 1
    several_metrics = len({c.metric for c in columns}) > 1
    out = []
    for c in columns:
        words = [c.model] * several_models + [METRIC_NAMES[c.metric]] * several_metrics
        out.append(" ".join([*words, f"{c.steps} steps"]))
    return out


def with_interval(cell: TableCell) -> str:
    """Our value with its interval."""
    if cell.value is None:
        return "n/a"
    if cell.low is None or cell.high is None:
        return number(cell.value)
    return f"{number(cell.value)} [{number(cell.low)}, {number(cell.high)}]"


def _lines(cells: Sequence[TableCell], why: Marks, doubts: Marks) -> list[tuple[str, ...]]:
    places, out = columns(cells), []
    for name in dict.fromkeys(c.row.name for c in cells):
        mine = {Column(c.model, c.metric, c.steps): c for c in cells if c.row.name == name}
        theirs, ours = [], []
        for column in places:
            cell = mine.get(column)
            theirs.append("–" if cell is None else _printed(cell, doubts))
            ours.append("–" if cell is None else with_interval(cell) + why.mark(cell.missing or ""))
        out += [(name, "paper", *theirs), ("", "here", *ours)]
    return out


def _printed(cell: TableCell, doubts: Marks) -> str:
    return cell.printed.text + doubts.mark(cell.printed.doubt)


def shared_reasons(cells: Sequence[TableCell]) -> list[tuple[str, str]]:
    """Each reason why ours cannot be set against the paper's, with what it holds for."""
    out: dict[str, list[str]] = {}
    for c in cells:
        for reason in c.reasons:
            place = out.setdefault(reason, [])
            where = f"{METRIC_NAMES[c.metric].split()[0]} on {c.model}"
            if where not in place:
                place.append(where)
    everywhere = len({(c.metric, c.model) for c in cells})
    return [(r, "" if len(p) == everywhere else ", ".join(p)) for r, p in out.items()]


# ------------------------------------------------------------------------------ order


def order(cells: Sequence[TableCell]) -> str:
    """On how many pairs of rows in a column paper and we agree which is better."""
    agree = distinct = total = 0
    for column in columns(cells):
        mine = [c for c in cells if Column(c.model, c.metric, c.steps) == column]
        for a, b in combinations([c for c in mine if c.value is not None], 2):
            total += 1
            if not _apart(a, b):
                continue
            distinct += 1
            agree += _sign(a.printed.value, b.printed.value) == _sign(a.value, b.value)
    if not total:
        return "Order of rows: nothing to compare, fewer than two rows of a column were measured."
    return (
        f"Order of rows: of {total} pairs of measured rows within a column {distinct} have"
        f" intervals that do not overlap, and {agree} of these stand as in the paper."
    )


def _apart(a: TableCell, b: TableCell) -> bool:
    if None in (a.low, a.high, b.low, b.high):
        return False
    assert a.low is not None
    assert a.high is not None
    assert b.low is not None
    assert b.high is not None
    return a.high < b.low or b.high < a.low


def _sign(a: float | None, b: float | None) -> int:
    assert a is not None
    assert b is not None
    return int(a > b) - int(a < b)


# ------------------------------------------------------------------------------ page


def table_page(
    entry: Entry,
    models: ModelMap,
    cells: Sequence[TableCell],
    floor: Sequence[ResultRow],
    real: Sequence[str] = (),
) -> Page:
    """The whole table; real: lines on distances between real images, in place of the floors."""
    why, doubts = Marks("abcdefghijklmnopqrstuvwxyz"), Marks("123456789")
    lines = _lines(cells, why, doubts)
    metrics = ", ".join(dict.fromkeys(c.metric_here for c in cells))
    lead = (
        f"{entry.number} of {entry.protocol.title}: the paper's value, and below it ours:"
        f" {metrics}, with its 95 % interval from resampling prompts.",
        _protocol(entry, models),
    )
    notes = [*_differences(cells), *why.notes(), *(f"{n} (paper)" for n in doubts.notes())]
    notes += [*(real or map(_floor, floor)), order(cells)]
    return Page(
        entry.name,
        f"{entry.name}: {entry.title}",
        lead,
        ("method", "", *heads(columns(cells))),
        tuple(lines),
        tuple(notes),
        tuple(record(entry, c) for c in cells),
    )


def _differences(cells: Sequence[TableCell]) -> list[str]:
    head = "Not comparable with the paper's value, "
    return [f"{head}{where or 'all cells'}: {reason}" for reason, where in shared_reasons(cells)]


def _protocol(entry: Entry, models: ModelMap) -> str:
    p = entry.protocol
    if models.small:
        return (
            "The paper's protocol scaled down, on the built-in kind of model:"
            f" guidance of the card in place of {p.guidance:g}, the zoo's captions,"
            f" {counted(p.seeds, 'seed')} unless set otherwise."
        )
    return (
        f"The paper's protocol: guidance {p.guidance:g}, {p.resolution}x{p.resolution},"
        f" {p.images:,} images from {p.images // p.seeds:,} prompts x"
        f" {counted(p.seeds, 'seed')} unless set otherwise."
        f" Prompts {p.prompts}: {p.prompts_why}."
    )


def _floor(row: ResultRow) -> str:
    if row.value is None:
        return f"Floor of {row.model}: {row.reason}"
    interval = "" if row.low is None else f" [{number(row.low)}, {number(row.high or 0)}]"
    return (
        f"Floor of {row.model} (reference against itself at other seeds, {row.n} images):"
        f" {row.metric} {number(row.value)}{interval}"
    )


def record(entry: Entry, c: TableCell) -> dict[str, object]:
    """One line of the CSV."""
    return {
        "table": entry.name,
        "row": c.row.name,
        "model": c.model,
        "steps": c.steps,
        "metric": c.metric,
        "better": find_metric(c.metric_here).metric.better,
        "paper": c.printed.text,
        "measured": c.value,
        "low": c.low,
        "high": c.high,
        "measured_model": c.card,
        "measured_method": c.row.method,
        "measured_metric": c.metric_here,
        "n": c.n,
        "nfe": c.nfe,
        "missing": c.missing or "",
        "why_not_comparable": "; ".join(c.reasons),
        "paper_doubt": c.printed.doubt,
        "protocol": c.protocol,
        "key": c.key,
    }
