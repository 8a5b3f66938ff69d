"""The answer of a run in words, computed from its numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sunbench.errors import UserError, unknown
from sunbench.metrics.registry import find_metric
from sunbench.report.choice import (
    Point,
    Recommendation,
    complete,
    default_distance,
    distance_metrics,
    equal_work,
    front,
    pick,
    points,
    recommend,
    signed,
    tie,
    ties,
)
from sunbench.report.data import CellTime, model_names
from sunbench.report.texts import cell_text, number, percent
from sunbench.store import PairRow, ResultRow

#: Ties named one by one before the rest is only counted.
NAMED_TIES = 6


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _measured(p: Point) -> str:
    return f"({number(p.ms)} ms, {p.nfe_text}, {cell_text(p.row)})"


def _facts(p: Point) -> str:
    return f"{p.name} {_measured(p)}"


def gain_text(p: Point, mark: str = "") -> str:
    """Its end-to-end speed-up in words, or nothing; one in doubt with the mark, else the reason."""
    if p.gain is None:
        return ""
    doubt = f" (in doubt: {p.gain.flag})" if p.gain.flag and not mark else ""
    sign = mark if p.gain.flag else ""
    return f"{p.gain.end_to_end:.1f}{sign} times as fast as the reference{doubt}"


def effect_text(p: Point, images: str = "images", mark: str = "") -> str:
    """Its speed-up (as `gain_text`) and relative distance, as far as they were measured."""
    gain, told = gain_text(p, mark), list[str]()
    if gain:
        told.append(f"makes {images} {gain}")
    if p.row.relative is not None:
        what = "them" if gain else images
        told.append(f"moves {what} by {percent(p.row.relative)} of what a new seed does")
    return " and ".join(told)


def _front_sentence(candidates: list[Point], line: list[Point], metric: str) -> str:
    whole = complete(candidates)
    if len(whole) == 1:
        return f"Only one has both a latency and a distance: {_facts(whole[0])}."
    what = f"On the front of latency against {metric}: {_list([_facts(p) for p in line])}."
    rest = len(whole) - len(line)
    if not rest:
        return what + " None of them is beaten by another."
    others = "the other one is" if rest == 1 else f"each of the other {rest} is"
    return f"{what} By value {others} beaten: something closer takes no more time."


def _same_work(line: list[Point]) -> list[str]:
    """A warning where points of the front differ in measured latency but not in NFE."""
    same = [
        f"{a.name} and {b.name}"
        for a, b in pairwise(line)
        if a.row.nfe is not None and a.row.nfe == b.row.nfe
    ]
    if not same:
        return []
    return [
        f"Equal NFE: {'; '.join(same)}; a difference in their latencies may be the machine's, "
        "not the method's."
    ]


def recommendation_sentence(one: Recommendation) -> str:
    """What the recommended method does, what was measured, and the rule that chose it."""
    p = one.point
    told = " ".join(t for t in (p.name, effect_text(p), _measured(p)) if t)
    return f"{told}. Recommended: {one.rule}."


def _limit_text(metric: str, limit: float) -> str:
    lower = find_metric(metric).metric.better == "lower"
    return f"{metric} {'at most' if lower else 'at least'} {number(limit)}"


def pick_sentence(
    candidates: Sequence[Point],
    win_rates: Sequence[PairRow],
    *,
    max_latency_ms: float | None = None,
    max_distance: float | None = None,
) -> tuple[Point | None, str]:
    """The pick, and the sentence that says it with what it is not distinguishable from."""
    chosen = pick(candidates, max_latency_ms=max_latency_ms, max_distance=max_distance)
    metric = candidates[0].row.metric
    if max_distance is not None:
        what, limit = "fastest", _limit_text(metric, max_distance)
    else:
        what, limit = "closest", f"at most {number(max_latency_ms or 0.0)} ms"
    if chosen is None:
        return None, f"With {limit}: none. {_nearest(candidates, what, max_distance)}"
    gain = gain_text(chosen)
    text = f"With {limit}, the {what} is {_facts(chosen)}{f', {gain}' if gain else ''}."
    inside = [p for p in complete(candidates) if max_latency_ms is None or p.ms <= max_latency_ms]
    same = [p.name for p in inside if p != chosen and tie(win_rates, chosen, p) is not None]
    return chosen, text + (f" Not distinguishable in distance from {_list(same)}." if same else "")


def _nearest(candidates: Iterable[Point], what: str, max_distance: float | None) -> str:
    whole = complete(candidates)
    if not whole:
        return "Nothing has both a latency and a distance."
    best = min(whole, key=lambda p: p.worst) if what == "fastest" else whole[0]
    text = f"The {'closest' if what == 'fastest' else 'fastest'} is {_facts(best)}."
    if max_distance is not None and best.loss <= signed(best.row.metric, max_distance):
        text += " Its interval reaches beyond that limit."
    return text


def _tie_sentence(same: list[tuple[Point, Point, str]], count: int, equal: str) -> str:
    if not same:
        text = f"Methods at equal {equal}: every difference in distance is distinguishable."
        return text if count > 1 else ""
    named = [f"{a.name} and {b.name} ({why})" for a, b, why in same[:NAMED_TIES]]
    more = len(same) - len(named)
    return f"Not distinguishable: {'; '.join(named)}{f'; and {more} more' if more else ''}."


def _missing(candidates: Iterable[Point]) -> list[str]:
    out = [f"No number for {p.name}: {p.row.reason}." for p in candidates if p.row.value is None]
    valued = [p for p in candidates if p.row.value is not None]
    timeless = [p.name for p in valued if p.latency_ms is None]
    if len(timeless) == len(valued) > 1:
        return [*out, "No latency was measured."]
    return out + ([f"No latency for {_list(timeless)}."] if timeless else [])


def model_answer(
    rows: Sequence[ResultRow],
    times: Sequence[CellTime],
    win_rates: Sequence[PairRow],
    model: str,
    metric: str | None = None,
) -> list[str]:
    """The answer about one model."""
    metric = metric or default_distance([r for r in rows if r.model == model])
    if metric is None:
        return ["No distance from the reference was measured, so there is nothing to choose by."]
    candidates = points(rows, times, model, metric)
    line, best = front(candidates), recommend(candidates)
    out = []
    if best is not None and len(complete(candidates)) > 1:
        out.append(recommendation_sentence(best))
    if line:
        out += [_front_sentence(candidates, line, metric), *_same_work(line)]
    else:
        out.append(f"Nothing has both a latency and a value of {metric}, so there is no front.")
    valued = [p for p in candidates if p.row.value is not None]
    out.append(_tie_sentence(ties(candidates, win_rates), len(valued), equal_work(win_rates)))
    return [s for s in [*out, *_missing(candidates)] if s]


def answer(
    rows: Sequence[ResultRow],
    times: Sequence[CellTime],
    win_rates: Sequence[PairRow],
) -> list[str]:
    """The answer of a run: a few sentences per model, each saying its model."""
    return [
        f"{model}: {sentence}"
        for model in model_names(rows)
        for sentence in model_answer(rows, times, win_rates, model)
    ]


# ------------------------------------------------------------------------------ pick


@dataclass(frozen=True)
class Pick:
    """What was picked for a model, if anything qualifies, and the sentence that says so."""

    model: str
    point: Point | None
    sentence: str


def picks(
    rows: Sequence[ResultRow],
    times: Sequence[CellTime],
    win_rates: Sequence[PairRow],
    *,
    max_latency_ms: float | None = None,
    max_distance: float | None = None,
    metric: str | None = None,
) -> list[Pick]:
    """One pick per model: within a limit, or without one the recommendation.

    UserError for a metric that is no distance of this run, for two limits, or one not finite.
    """
    if max_latency_ms is not None and max_distance is not None:
        raise UserError("given a maximum latency and a maximum distance, expected one of the two")
    if metric is not None and metric not in distance_metrics(rows):
        raise unknown("distance", metric, distance_metrics(rows))
    limits = {"max_latency_ms": max_latency_ms, "max_distance": max_distance}
    out = []
    for model in model_names(rows):
        name = metric or default_distance([r for r in rows if r.model == model])
        candidates = points(rows, times, model, name) if name else []
        if not candidates:
            out.append(Pick(model, None, "No distance from the reference was measured."))
        elif max_latency_ms is None and max_distance is None:
            best = recommend(candidates)
            if best is None:
                out.append(Pick(model, None, "Nothing has both a latency and a distance."))
            else:
                out.append(Pick(model, best.point, recommendation_sentence(best)))
        else:
            out.append(Pick(model, *pick_sentence(candidates, win_rates, **limits)))
    return out
