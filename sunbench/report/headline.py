"""One model's main table: a line per method and steps, a column per metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sunbench.metrics.registry import find_metric
from sunbench.report.choice import default_distance, equal_work, is_candidate
from sunbench.report.data import CellTime, printed_name, reference_time, speed_up
from sunbench.report.formats import Table
from sunbench.report.ranks import ORDER, rank_texts, unordered
from sunbench.report.texts import cell_text, nfe_text, percent_text, with_arrow
from sunbench.report.times import FLAG, SPEED_UP
from sunbench.store import PairRow, ResultRow, SetPairRow

RELATIVE = "moves, % of a new seed ↓"
RANK, RANK_NFE = "rank at its steps", "rank at its NFE"


def headline(
    rows: Sequence[ResultRow],
    model: str,
    text: Callable[[ResultRow | None], str] = cell_text,
    times: Sequence[CellTime] = (),
    pairs: Sequence[PairRow] = (),
    set_pairs: Sequence[SetPairRow] = (),
) -> Table:
    """One model's table: a line per method and steps, a column per metric.

    The end-to-end speed-up leads where times are passed, then the distance relative to a new seed
    where the run has it, with its possible ranks where comparisons are passed. A distance of sets
    whose order with another method depends on N is marked.
    """
    mine = [r for r in rows if r.model == model]
    main, metrics = default_distance(mine), list(dict.fromkeys(r.metric for r in mine))
    relative = any(r.relative is not None for r in mine if r.metric == main)
    gains = _gain_texts(times, model)
    ranks = rank_texts([p for p in pairs if p.model == model], main)
    marked = unordered([p for p in set_pairs if p.model == model])
    head = (
        ["method", "steps", "NFE"]
        + [SPEED_UP] * bool(gains)
        + [RELATIVE] * relative
        + [RANK_NFE if equal_work(pairs) == "NFE" else RANK] * bool(ranks)
    )
    lines = []
    for (role, method, steps), own in cells_of(mine).items():
        place = (role, method, steps)
        first = next(iter(own.values()))
        line = [printed_name(first), str(steps), nfe_text(own.values())]
        line += [gains.get(place, "–")] if gains else []
        line += [percent_text(own.get(main or ""))] if relative else []
        line += [ranks.get(place[1:], "–") if role == "candidate" else "–"] if ranks else []
        marks = {m for m in metrics if role == "candidate" and (method, steps, m) in marked}
        lines.append([*line, *(text(own.get(m)) + ORDER * (m in marks) for m in metrics)])
    return [*head, *map(with_arrow, metrics)], lines


def cells_of(rows: Iterable[ResultRow]) -> dict[tuple[str, str, int], dict[str, ResultRow]]:
    """(role, method, steps) -> metric -> row, candidates first."""
    cells: dict[tuple[str, str, int], dict[str, ResultRow]] = {}
    for r in sorted(rows, key=lambda r: not is_candidate(r)):
        cells.setdefault((r.role, r.method, r.steps), {})[r.metric] = r
    return cells


def _gain_texts(times: Iterable[CellTime], model: str) -> dict[tuple[str, str, int], str]:
    own = [t for t in times if t.model == model and t.role == "candidate"]
    gains = {(t.role, t.method, t.steps): speed_up(t, reference_time(times, model)) for t in own}
    return {
        place: f"{g.end_to_end:.2f}x{FLAG if g.flag else ''}"
        for place, g in gains.items()
        if g is not None
    }


def best_lines(rows: Sequence[ResultRow], model: str) -> dict[str, set[tuple[str, int]]]:
    """metric -> the (method, steps) of the best candidate value."""
    out: dict[str, set[tuple[str, int]]] = {}
    mine = [r for r in rows if r.model == model and is_candidate(r) and r.value is not None]
    for metric in dict.fromkeys(r.metric for r in mine):
        own = [r for r in mine if r.metric == metric]
        choose = min if find_metric(metric).metric.better == "lower" else max
        best = choose(r.value for r in own if r.value is not None)
        out[metric] = {(r.method, r.steps) for r in own if r.value == best}
    return out
