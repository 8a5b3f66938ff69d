"""The answer of a run in words, made from its numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from sunbench.errors import UserError, unknown
from sunbench.metrics.registry import find
from sunbench.report.choice import (
    Point,
    complete,
    default_distance,
    distances,
    front,
    pick,
    points,
    reference_ms,
    signed,
    tie,
    ties,
)
from sunbench.report.tables import cell_text, models, number
from sunbench.store import ResultRow

#: Without a chosen loss, so many times the smallest distance found.
ALLOWED = 1.5
#: Ties named one by one before the rest is only counted.
NAMED_TIES = 6


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _facts(p: Point) -> str:
    return f"{p.name} ({number(p.ms)} ms, {p.nfe_text}, {cell_text(p.row)})"


def _gain(p: Point, reference: float | None) -> str:
    if reference is None or p.ms <= 0:
        return ""
    return f", {reference / p.ms:.1f} times as fast as the reference in U-Net time"


def _front_sentence(given: list[Point], line: list[Point], metric: str) -> str:
    whole = complete(given)
    if len(whole) == 1:
        return f"Only one has both a time and a distance: {_facts(whole[0])}; no front to choose."
    what = f"On the front of U-Net time against {metric}: {_list([_facts(p) for p in line])}."
    rest = len(whole) - len(line)
    if not rest:
        return what + " None of them is beaten by another."
    others = "the other one is" if rest == 1 else f"each of the other {rest} is"
    return f"{what} By value {others} beaten: something closer takes no more time."


def _same_work(line: list[Point]) -> list[str]:
    """A warning where points of the front differ in measured time but not in NFE."""
    same = [
        f"{a.name} and {b.name}"
        for a, b in pairwise(line)
        if a.row.nfe is not None and a.row.nfe == b.row.nfe
    ]
    if not same:
        return []
    return [
        f"Equal NFE: {_list(same)}; a difference in their times may be the machine's, "
        "not the method's."
    ]


def _limit_text(metric: str, limit: float) -> str:
    lower = find(metric).metric.better == "lower"
    return f"{metric} {'at most' if lower else 'at least'} {number(limit)}"


def allowed(given: Iterable[Point]) -> float | None:
    """The loss within which the fastest is named when nobody chose one."""
    best = min(complete(given), key=lambda p: p.loss, default=None)
    if best is None or best.row.value is None:
        return None
    return best.row.value * (ALLOWED if best.loss > 0 else 1 / ALLOWED)


def _allowance(metric: str) -> str:
    if find(metric).metric.better == "lower":
        return "one and a half times the smallest distance found"
    return "two thirds of the best value found"


def pick_sentence(
    given: Sequence[Point],
    pairs: Sequence[dict[str, Any]],
    reference: float | None,
    *,
    max_latency_ms: float | None = None,
    max_loss: float | None = None,
    because: str = "",
) -> str:
    """The pick in words, with what it cannot be told from; because: where the limit is from."""
    chosen = pick(given, max_latency_ms=max_latency_ms, max_loss=max_loss)
    metric = given[0].row.metric
    if max_loss is not None:
        what, limit = "fastest", _limit_text(metric, max_loss)
    else:
        what, limit = "closest", f"at most {number(max_latency_ms or 0.0)} ms"
    if chosen is None:
        return f"With {limit}{because}: none. {_nearest(given, what)}"
    text = f"With {limit}{because}, the {what} is {_facts(chosen)}{_gain(chosen, reference)}."
    worst = chosen.loss if chosen.ends is None else chosen.ends[1]
    if max_loss is not None and worst > signed(metric, max_loss):
        text += " Its interval reaches beyond that limit."
    inside = [p for p in complete(given) if max_latency_ms is None or p.ms <= max_latency_ms]
    same = [p.name for p in inside if p != chosen and tie(pairs, chosen, p) is not None]
    return text + (f" Its distance cannot be told from that of {_list(same)}." if same else "")


def _nearest(given: Iterable[Point], what: str) -> str:
    whole = complete(given)
    if not whole:
        return "Nothing has both a time and a distance."
    best = min(whole, key=lambda p: p.loss) if what == "fastest" else whole[0]
    return f"The {'closest' if what == 'fastest' else 'fastest'} is {_facts(best)}."


def _tie_sentence(found: list[tuple[Point, Point, str]], count: int) -> str:
    if not found:
        return "Methods at equal steps: every difference in distance is clear." if count > 1 else ""
    named = [f"{a.name} and {b.name} ({why})" for a, b, why in found[:NAMED_TIES]]
    more = len(found) - len(named)
    return f"Too small to tell: {'; '.join(named)}{f'; and {more} more' if more else ''}."


def _missing(given: Iterable[Point]) -> list[str]:
    out = [f"No number for {p.name}: {p.row.reason}." for p in given if p.row.value is None]
    timeless = [p.name for p in given if p.row.value is not None and p.latency_ms is None]
    return out + ([f"No time for {_list(timeless)}."] if timeless else [])


def model_answer(
    rows: Sequence[ResultRow],
    times: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    model: str,
    metric: str | None = None,
) -> list[str]:
    """The answer about one model."""
    metric = metric or default_distance([r for r in rows if r.model == model])
    if metric is None:
        return ["No distance from the reference was measured, so there is nothing to choose by."]
    given = points(rows, times, model, metric)
    line, reference, limit = front(given), reference_ms(times, model), allowed(given)
    out = []
    if line:
        out += [_front_sentence(given, line, metric), *_same_work(line)]
    else:
        out.append(f"Nothing has both a time and a value of {metric}, so there is no front.")
    if limit is not None and len(complete(given)) > 1:
        because = f" ({_allowance(metric)})"
        out.append(pick_sentence(given, pairs, reference, max_loss=limit, because=because))
    valued = [p for p in given if p.row.value is not None]
    return [
        s for s in [*out, _tie_sentence(ties(given, pairs), len(valued)), *_missing(given)] if s
    ]


def answer(
    rows: Sequence[ResultRow],
    times: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
) -> list[str]:
    """The answer of a run: a few sentences a model, each saying its model."""
    return [
        f"{model}: {sentence}"
        for model in models(rows)
        for sentence in model_answer(rows, times, pairs, model)
    ]


def pick_lines(
    rows: Sequence[ResultRow],
    times: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    *,
    max_latency_ms: float | None = None,
    max_loss: float | None = None,
    metric: str | None = None,
) -> list[str]:
    """One sentence a model; UserError for a metric that is no distance of this run."""
    if (max_latency_ms is None) == (max_loss is None):
        raise UserError(
            "given both or none of --max-latency-ms and --max-loss, expected one of the two"
        )
    if metric is not None and metric not in distances(rows):
        raise unknown("distance", metric, distances(rows))
    out = []
    for model in models(rows):
        name = metric or default_distance([r for r in rows if r.model == model])
        given = points(rows, times, model, name) if name else []
        if not given:
            out.append(f"{model}: No distance from the reference was measured.")
            continue
        reference = reference_ms(times, model)
        text = pick_sentence(
            given, pairs, reference, max_latency_ms=max_latency_ms, max_loss=max_loss
        )
        out.append(f"{model}: {text}")
    return out
