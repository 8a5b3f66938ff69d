"""Choosing by latency and distance: the front, the recommendation, and which differences count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sunbench.errors import UserError
from sunbench.metrics.registry import find_metric
from sunbench.report.data import CellTime, SpeedUp, reference_time, speed_up
from sunbench.report.texts import evaluations, percent
from sunbench.store import PairRow, ResultRow

#: Latencies of one run that differ by less than this share count as equal.
SAME_TIME = 0.05
#: The same for methods of equal NFE: one that is faster by more has changed the network.
SAME_NFE_TIME = 0.1
#: Times between the nearest and the farthest value, from where on a chart's axis is logarithmic.
WIDE = 30
#: A method is recommended when its images move by less than this share of what a new seed does.
MARGIN = 0.5


@dataclass(frozen=True)
class Point:
    """One (method, steps): its distance, latency per image with its quartiles, and speed-up."""

    row: ResultRow
    latency_ms: float | None
    gain: SpeedUp | None = None
    quartiles_ms: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """In words: "ddim at 4 steps"."""
        return f"{self.row.method} at {self.row.steps} steps"

    @property
    def loss(self) -> float:
        """The distance with its sign turned where higher is better, so that lower is better."""
        return signed(self.row.metric, self.row.value)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval of the loss, or None."""
        if self.row.low is None or self.row.high is None:
            return None
        low, high = (signed(self.row.metric, v) for v in (self.row.low, self.row.high))
        return min(low, high), max(low, high)

    @property
    def worst(self) -> float:
        """The far end of the loss's interval, or the loss itself without one."""
        return self.loss if self.ends is None else self.ends[1]

    @property
    def ms(self) -> float:
        """The latency of a point that has one."""
        assert self.latency_ms is not None
        return self.latency_ms

    @property
    def value(self) -> float:
        """The value of a point that has one."""
        assert self.row.value is not None
        return self.row.value

    @property
    def nfe_text(self) -> str:
        """Its NFE, or a dash."""
        return f"{evaluations(self.row.method, self.row.nfe)} NFE"


def signed(metric: str, value: float | None) -> float:
    """A value as a loss: lower is better."""
    assert value is not None
    return value if find_metric(metric).metric.better == "lower" else -value


def is_candidate(row: ResultRow) -> bool:
    """Whether a row is a method's own."""
    return row.role == "candidate"


def distance_metrics(rows: Iterable[ResultRow]) -> list[str]:
    """Metrics that say how far images are from the reference, in the order of the run."""
    names = dict.fromkeys(r.metric for r in rows if is_candidate(r))
    return [n for n in names if find_metric(n).metric.compares in ("pairs", "sets")]


def is_image_distance(metric: str) -> bool:
    """Whether a metric is a distance of image pairs by a network: LPIPS or its like."""
    measure = find_metric(metric).metric
    return measure.reads == "images" and measure.better == "lower"


def default_distance(rows: Sequence[ResultRow]) -> str | None:
    """A distance of image pairs if it has values, else the first that has any, else the first."""
    names = distance_metrics(rows)
    valued = {r.metric for r in rows if is_candidate(r) and r.value is not None}
    order = sorted(names, key=lambda n: (n not in valued, not is_image_distance(n)))
    return order[0] if order else None


def points(
    rows: Sequence[ResultRow], times: Iterable[CellTime], model: str, metric: str
) -> list[Point]:
    """Every (method, steps) of a model, those without a value included."""
    own = {(t.method, t.steps): t for t in times if t.model == model and t.role == "candidate"}
    reference = reference_time(times, model)
    out = []
    for r in rows:
        if (r.model, r.metric) != (model, metric) or not is_candidate(r):
            continue
        time = own.get((r.method, r.steps))
        if time is None:
            out.append(Point(r, None))
        else:
            gain = speed_up(time, reference)
            out.append(Point(r, time.latency_ms, gain, time.quartiles_ms))
    return out


def complete(candidates: Iterable[Point]) -> list[Point]:
    """The points with both a latency and a distance, fastest first."""
    whole = [p for p in candidates if p.latency_ms is not None and p.row.value is not None]
    return sorted(whole, key=lambda p: (p.ms, p.loss))


def logarithmic(candidates: Iterable[Point], floor: float | None) -> bool:
    """Whether a chart's axis of distance must be: one far value would press all others onto it."""
    rows = [p.row for p in complete(candidates)]
    ends = [v for r in rows for v in (r.value, r.low, r.high)] + [floor]
    values = [v for v in ends if v is not None]
    return bool(rows) and min(values) > 0 and max(values) > WIDE * min(values)


def beats(a: Point, b: Point) -> bool:
    """Whether a is closer than b and not slower; see SAME_TIME."""
    return a.loss < b.loss and a.ms <= b.ms * (1 + SAME_TIME)


def front(candidates: Iterable[Point]) -> list[Point]:
    """The points that no other beats, fastest first."""
    whole = complete(candidates)
    return [p for p in whole if not any(beats(q, p) for q in whole)]


# ------------------------------------------------------------------------------ choosing


def same_latency(a: Point, b: Point) -> bool:
    """Whether the latencies of two points are not distinguishable.

    They are not where their quartiles overlap, or where they differ by less than SAME_TIME,
    at equal NFE by less than SAME_NFE_TIME.
    """
    equal_nfe = a.row.nfe is not None and a.row.nfe == b.row.nfe
    low, high = sorted((a.ms, b.ms))
    if high <= low * (1 + (SAME_NFE_TIME if equal_nfe else SAME_TIME)):
        return True
    if a.quartiles_ms is None or b.quartiles_ms is None:
        return False
    return a.quartiles_ms[0] <= b.quartiles_ms[1] and b.quartiles_ms[0] <= a.quartiles_ms[1]


def _nearest_as_fast(point: Point, line: Iterable[Point]) -> Point:
    """Of the points whose latency is not distinguishable from this one's, the closest."""
    return min((p for p in line if same_latency(p, point)), key=lambda p: (p.loss, p.ms))


@dataclass(frozen=True)
class Recommendation:
    """A point, and the rule that chose it in words."""

    point: Point
    rule: str


def recommend(candidates: Sequence[Point], margin: float = MARGIN) -> Recommendation | None:
    """The fastest whose images move clearly less than ``margin`` of a new seed, else the knee.

    Clearly: the whole interval of the relative distance lies below the margin. Of those whose
    latencies are not distinguishable, the closest. None without a point that has both a latency
    and a distance.
    """
    whole = complete(candidates)
    within = [p for p in whole if (end := _relative_end(p.row)) is not None and end < margin]
    line = front(within or whole)
    if not line:
        return None
    start, rule = knee(line), "the best balance of latency and distance on the front"
    if within:
        start, most = line[0], percent(margin)
        rule = f"the fastest that moves images by less than {most} of what a new seed does"
    chosen = _nearest_as_fast(start, line)
    if chosen is not start:
        rule += f" (closer than {start.name}, whose latency is not distinguishable)"
    return Recommendation(chosen, rule)


def _relative_end(row: ResultRow) -> float | None:
    return row.relative if row.relative_high is None else row.relative_high


def knee(line: Sequence[Point]) -> Point:
    """The point of a front nearest to its ideal corner: the least latency, the least distance.

    Both run from 0 to 1 over the front, latency in logarithms; of equals the fastest.
    """
    times, losses = [math.log(p.ms) for p in line], [p.loss for p in line]

    def corner(p: Point) -> tuple[float, float]:
        x, y = _share(math.log(p.ms), times), _share(p.loss, losses)
        return round(math.hypot(x, y), 9), p.ms

    return min(line, key=corner)


def _share(value: float, values: Sequence[float]) -> float:
    low, high = min(values), max(values)
    return 0.0 if high == low else (value - low) / (high - low)


def pick(
    candidates: Iterable[Point],
    *,
    max_latency_ms: float | None = None,
    max_distance: float | None = None,
) -> Point | None:
    """The closest within a latency, or the fastest within a distance; None when none is within.

    max_distance is in the metric's own terms (the least acceptable value where higher is better),
    and the whole interval of a distance must lie within it. Of those whose latencies are not
    distinguishable from the fastest's, the closest.
    """
    for name, limit in (("latency", max_latency_ms), ("distance", max_distance)):
        if limit is not None and not math.isfinite(limit):
            raise UserError(f"given a maximum {name} of {limit}, expected a finite number")
    if (max_latency_ms is None) == (max_distance is None):
        raise UserError(
            "given both or none of a maximum latency and a maximum distance, expected one of the"
            " two"
        )
    whole = complete(candidates)
    if max_latency_ms is not None:
        within = [p for p in whole if p.ms <= max_latency_ms]
        return min(within, key=lambda p: (p.loss, p.ms), default=None)
    within = [p for p in whole if p.worst <= signed(p.row.metric, max_distance)]
    return _nearest_as_fast(within[0], within) if within else None


# ------------------------------------------------------------------------------ ties


def win_rate(win_rates: Iterable[PairRow], a: Point, b: Point) -> PairRow | None:
    """The win rate of two points where the run compares them: at equal steps, or equal NFE."""
    if a.row.method == b.row.method:
        return None
    wanted = (a.row.model, a.row.metric, _cells(a, b))
    own = (w for w in win_rates if (w.model, w.metric, frozenset(w.cells)) == wanted)
    return next(own, None)


def _cells(a: Point, b: Point) -> frozenset[tuple[str, int]]:
    return frozenset((p.row.method, p.row.steps) for p in (a, b))


def tie(win_rates: Iterable[PairRow], a: Point, b: Point) -> str | None:
    """Why the distances of two points are not distinguishable, or None when they are.

    By the comparison of the two where the run has it, else by their intervals.
    """
    rate = win_rate(win_rates, a, b)
    if rate is not None:
        return None if rate.distinguishable else _doubt(rate)
    if a.ends is None or b.ends is None:
        return "one has no interval"
    apart = a.ends[1] < b.ends[0] or b.ends[1] < a.ends[0]
    return None if apart else "their intervals overlap"


def _doubt(rate: PairRow) -> str:
    """The interval that does not tell two methods apart."""
    if rate.difference is not None:
        return f"{rate.a} minus {rate.b}: {rate.difference_text}"
    numbers = [round(100 * x) for x in (rate.a_closer, rate.low, rate.high)]
    return "{} is closer on {} % [{}, {}] of prompts".format(rate.a, *numbers)


def equal_work(win_rates: Iterable[PairRow]) -> Literal["steps", "NFE"]:
    """What is equal where a run compares methods: their steps, or their budget of evaluations."""
    return "NFE" if any(w.nfe is not None for w in win_rates) else "steps"


def ties(
    candidates: Iterable[Point], win_rates: Sequence[PairRow]
) -> list[tuple[Point, Point, str]]:
    """Pairs not distinguishable: methods at equal steps or NFE, and neighbors on the front."""
    valued = [p for p in candidates if p.row.value is not None]
    at_budgets = {frozenset(w.cells) for w in win_rates if w.nfe is not None}

    def equal(a: Point, b: Point) -> bool:
        return _cells(a, b) in at_budgets if at_budgets else a.row.steps == b.row.steps

    pairs = [(a, b) for i, a in enumerate(valued) for b in valued[i + 1 :]]
    wanted = [pair for pair in pairs if equal(*pair)]
    wanted += [pair for pair in pairwise(front(valued)) if not equal(*pair)]
    reasons = ((a, b, tie(win_rates, a, b)) for a, b in wanted)
    return [(a, b, why) for a, b, why in reasons if why is not None]
