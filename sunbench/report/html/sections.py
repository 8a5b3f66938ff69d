"""What the page says of one model: its sentence, three tiles, tables and win rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sunbench.report.answer import effect_text, model_answer
from sunbench.report.choice import Point, Recommendation, default_distance, points, recommend
from sunbench.report.data import RunData, reference_time
from sunbench.report.formats import Table
from sunbench.report.headline import best_lines, headline
from sunbench.report.tables import notes, requirements_table
from sunbench.report.texts import cell_text, number, percent, percent_text
from sunbench.report.times import FLAG, flags, throughput_table, time_table
from sunbench.store import PairRow

#: Shades of a heatmap, from 0 (never closer) to this (always closer).
SHADES = 10


def section(data: RunData, model: str) -> dict[str, object]:
    """What the template prints of one model."""
    mine = [r for r in data.rows if r.model == model]
    times = [t for t in data.times if t.model == model]
    timing = [r for r in data.timing if r.model == model]
    needs = [n for n in data.requirements if n.model == model]
    metric = default_distance(mine)
    candidates = points(mine, times, model, metric) if metric else []
    best = recommend(candidates)
    return {
        "name": model,
        "n": mine[0].n,
        "prompts": mine[0].prompts,
        "task": mine[0].task,
        "sentence": _whole(_sentence(model, best, candidates)),
        "tiles": None if best is None else _tiles(data, model, best),
        "answer": [_whole(s) for s in model_answer(data.rows, times, data.win_rates, model)],
        "head": _headline(data, model)[0],
        "notes": notes(data, model),
        "lines": _marked(data, model),
        "times": time_table(times) if times else None,
        "throughput": throughput_table(timing) if timing else None,
        "flags": flags(times),
        "needs": requirements_table(needs) if needs else None,
        "heatmaps": heatmaps([w for w in data.win_rates if w.model == model]),
    }


# ------------------------------------------------------------------------------ first screen


def _whole(text: str) -> str:
    """A percent sign stays beside its number at the end of a line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _sentence(model: str, best: Recommendation | None, candidates: list[Point]) -> str:
    if best is None:
        return _nearest(model, candidates)
    p = best.point
    told = effect_text(p, f"{model} images", FLAG.strip())
    if p.row.relative is None:
        told = told or f"makes {model} images"
        told += f", {p.row.metric} {number(p.row.value or 0.0)} from the reference's"
    return f"{p.name} {told}."


def _nearest(model: str, candidates: list[Point]) -> str:
    """The answer where nothing has a latency."""
    valued = [p for p in candidates if p.row.value is not None]
    if not valued:
        return f"No method on {model} has a distance from the reference."
    p = min(valued, key=lambda p: p.loss)
    moved = f"{p.row.metric} {number(p.row.value or 0.0)} from the reference's"
    if p.row.relative is not None:
        moved = f"by {percent(p.row.relative)} of what a new seed does"
    name = f"{p.row.method} at {p.row.steps} steps"
    return f"{name} moves {model} images least: {moved}. No latency was measured."


def _tiles(data: RunData, model: str, best: Recommendation) -> dict[str, object]:
    p, reference = best.point, reference_time(data.times, model)
    return {
        "method": p.row.method,
        "steps": p.row.steps,
        "nfe": p.nfe_text,
        "rule": _whole(best.rule),
        "speed_up": "–" if p.gain is None else f"{p.gain.end_to_end:.1f}x",
        "latency": f"{number(p.ms)} ms per image"
        + (f" instead of {number(reference.latency_ms)} ms" if reference is not None else ""),
        "flag": "" if p.gain is None else p.gain.flag,
        **_moved(p),
    }


def _moved(p: Point) -> dict[str, str]:
    if p.row.relative is not None:
        span = percent_text(p.row).partition(" ")[2]
        return {
            "moved": _whole(percent(p.row.relative)),
            "unit": f"of what a new seed does {span}, by {p.row.metric}",
        }
    span = "" if p.row.low is None else f" [{number(p.row.low)}, {number(p.row.high or 0.0)}]"
    return {"moved": number(p.row.value or 0.0), "unit": f"{p.row.metric}{span}"}


# ------------------------------------------------------------------------------ tables


def _headline(data: RunData, model: str) -> Table:
    own = data.of_model(model)
    return headline(own.rows, model, cell_text, own.times, own.win_rates, own.set_pairs)


def _marked(data: RunData, model: str) -> list[list[tuple[str, bool]]]:
    """The headline table's cells, each with whether it is the best of its column."""
    mine = [r for r in data.rows if r.model == model]
    head, lines = _headline(data, model)
    best = best_lines(mine, model)
    metrics = [h.rpartition(" ")[0] for h in head]
    several = len(lines) > 1
    return [
        [
            (text, several and (line[0], int(line[1])) in best.get(metric, ()))
            for text, metric in zip(line, metrics, strict=True)
        ]
        for line in lines
    ]


@dataclass(frozen=True)
class HeatCell:
    """The win rate of a row's method over a column's; shade: 0 to SHADES, None on the diagonal."""

    text: str
    words: str
    shade: int | None


@dataclass(frozen=True)
class Heatmap:
    """Win rates of every method over every other by one metric; place: what is equal."""

    metric: str
    place: str
    methods: tuple[str, ...]
    rows: tuple[tuple[HeatCell, ...], ...]


def heatmaps(win_rates: Sequence[PairRow]) -> list[Heatmap]:
    """A heatmap per metric and number of steps or NFE, methods with the most wins first."""
    place = lambda w: (w.metric, w.place)  # noqa: E731
    order = {m: i for i, m in enumerate(dict.fromkeys(w.metric for w in win_rates))}
    ordered = sorted(win_rates, key=lambda w: (order[w.metric], w.nfe or w.steps))
    return [_heatmap(*key, list(own)) for key, own in groupby(ordered, place)]


def _heatmap(metric: str, place: str, win_rates: list[PairRow]) -> Heatmap:
    share: dict[tuple[str, str], tuple[float, bool]] = {}
    for w in win_rates:
        share[w.a, w.b] = (w.a_closer, w.distinguishable)
        share[w.b, w.a] = (1 - w.a_closer, w.distinguishable)
    methods = dict.fromkeys(m for w in win_rates for m in (w.a, w.b))
    ranked = tuple(sorted(methods, key=lambda m: -_wins(share, m)))
    rows = tuple(tuple(_heat_cell(a, b, share.get((a, b))) for b in ranked) for a in ranked)
    return Heatmap(metric, place, ranked, rows)


def _wins(share: dict[tuple[str, str], tuple[float, bool]], method: str) -> float:
    own = [value for (a, _), (value, _) in share.items() if a == method]
    return sum(own) / len(own)


def _heat_cell(a: str, b: str, share: tuple[float, bool] | None) -> HeatCell:
    if share is None:
        return HeatCell("", "", None)
    value, clear = share
    words = f"{a} is closer than {b} on {percent(value)} of prompts"
    words += "" if clear else ", not distinguishable"
    text = f"{100 * value:.0f}{'' if clear else ' ≈'}"
    return HeatCell(text, words, round(value * SHADES))
