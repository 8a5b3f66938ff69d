"""Choosing by time and distance: the front, the pick, and which differences are ties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sunbench.errors import UserError
from sunbench.metrics.registry import find
from sunbench.store import ResultRow

#: Times of one run that differ by less than this share count as equal.
SAME_TIME = 0.05
#: Times between the nearest and the farthest value, from where on a chart's axis is logarithmic.
WIDE = 30


@dataclass(frozen=True)
class Point:
    """One (method, steps): milliseconds of U-Net and NFE of an image, and its distance."""

    row: ResultRow
    latency_ms: float | None

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
    def ms(self) -> float:
        """The time of a point that has one."""
        assert self.latency_ms is not None
        return self.latency_ms

    @property
    def nfe_text(self) -> str:
        """Its NFE, or a dash."""
        return f"{'–' if self.row.nfe is None else self.row.nfe} NFE"


def signed(metric: str, value: float | None) -> float:
    """A value as a loss: lower is better."""
    assert value is not None
    return value if find(metric).metric.better == "lower" else -value


def is_candidate(row: ResultRow) -> bool:
    """Whether a row is neither the reference nor its floor."""
    return not row.method.startswith("reference")


def latency_ms(times: Iterable[dict[str, Any]], row: ResultRow) -> float | None:
    """U-Net milliseconds an image of a candidate's cell, or None when it was not measured."""
    for t in times:
        place = (t["model"], t["method"], t["steps"], t["role"])
        if place == (row.model, row.method, row.steps, "candidate"):
            return 1000 * float(t["unet_seconds"])
    return None


def reference_ms(times: Iterable[dict[str, Any]], model: str) -> float | None:
    """U-Net milliseconds an image of a model's reference."""
    own = (t for t in times if t["model"] == model and t["role"] == "reference")
    return next((1000 * float(t["unet_seconds"]) for t in own), None)


def distances(rows: Iterable[ResultRow]) -> list[str]:
    """Metrics that say how far the pictures are from the reference, in the order of the run."""
    names = dict.fromkeys(r.metric for r in rows if is_candidate(r))
    return [n for n in names if find(n).metric.compares in ("pairs", "sets")]


def is_image_distance(metric: str) -> bool:
    """Whether a metric is a distance of image pairs by a network: LPIPS or its like."""
    found = find(metric).metric
    return found.reads == "images" and found.better == "lower"


def default_distance(rows: Sequence[ResultRow]) -> str | None:
    """A distance of image pairs if it has values, else the first that has any, else the first."""
    names = distances(rows)
    valued = {r.metric for r in rows if is_candidate(r) and r.value is not None}
    order = sorted(names, key=lambda n: (n not in valued, not is_image_distance(n)))
    return order[0] if order else None


def points(
    rows: Iterable[ResultRow], times: Iterable[dict[str, Any]], model: str, metric: str
) -> list[Point]:
    """Every (method, steps) of a model, those without a value included."""
    times = list(times)
    mine = (r for r in rows if r.model == model and r.metric == metric and is_candidate(r))
    return [Point(r, latency_ms(times, r)) for r in mine]


def complete(given: Iterable[Point]) -> list[Point]:
    """The points with both a time and a distance, fastest first."""
    whole = [p for p in given if p.latency_ms is not None and p.row.value is not None]
    return sorted(whole, key=lambda p: (p.ms, p.loss))


def logarithmic(given: Iterable[Point], floor: float | None) -> bool:
    """Whether a chart's axis of distance must be: one far value would press all others onto it."""
    rows = [p.row for p in complete(given)]
    ends = [v for r in rows for v in (r.value, r.low, r.high)] + [floor]
    values = [v for v in ends if v is not None]
    return bool(rows) and min(values) > 0 and max(values) > WIDE * min(values)


def beats(a: Point, b: Point) -> bool:
    """Whether a is closer than b and not slower; see SAME_TIME."""
    return a.loss < b.loss and a.ms <= b.ms * (1 + SAME_TIME)


def front(given: Iterable[Point]) -> list[Point]:
    """The points that no other beats, fastest first."""
    whole = complete(given)
    return [p for p in whole if not any(beats(q, p) for q in whole)]


def pick(
    given: Iterable[Point], *, max_latency_ms: float | None = None, max_loss: float | None = None
) -> Point | None:
    """The closest within a time, or the fastest within a loss; None when none is within.

    max_loss is in the metric's own terms: the least acceptable value where higher is better.
    """
    if (max_latency_ms is None) == (max_loss is None):
        raise UserError("given both or none of a time and a loss, expected one of the two")
    whole = complete(given)
    if max_latency_ms is not None:
        within = [p for p in whole if p.ms <= max_latency_ms]
        return min(within, key=lambda p: (p.loss, p.ms), default=None)
    within = [p for p in whole if p.loss <= signed(p.row.metric, max_loss)]
    return min(within, key=lambda p: (p.ms, p.loss), default=None)


# ------------------------------------------------------------------------------ ties


def _share(pairs: Iterable[dict[str, Any]], a: Point, b: Point) -> dict[str, Any] | None:
    """The "A is closer than B" record of two points at equal steps."""
    if a.row.steps != b.row.steps or a.row.method == b.row.method:
        return None
    wanted = (a.row.model, a.row.metric, a.row.steps, {a.row.method, b.row.method})
    own = (p for p in pairs if (p["model"], p["metric"], p["steps"], {p["a"], p["b"]}) == wanted)
    return next(own, None)


def tie(pairs: Iterable[dict[str, Any]], a: Point, b: Point) -> str | None:
    """Why the distances of two points cannot be told apart, or None when they can.

    By the paired share at equal steps when the run has it, else by their intervals.
    """
    share = _share(pairs, a, b)
    if share is not None:
        if not share["low"] <= 0.5 <= share["high"]:
            return None
        numbers = [round(100 * share[k]) for k in ("a_closer", "low", "high")]
        return "{} is closer on {} % [{}, {}] of prompts".format(share["a"], *numbers)
    if a.ends is None or b.ends is None:
        return "one has no interval"
    apart = a.ends[1] < b.ends[0] or b.ends[1] < a.ends[0]
    return None if apart else "their intervals overlap"


def ties(given: Iterable[Point], pairs: Sequence[dict[str, Any]]) -> list[tuple[Point, Point, str]]:
    """Indistinguishable distances: of methods at equal steps, and of neighbours on the front."""
    valued = [p for p in given if p.row.value is not None]
    line = front(valued)
    wanted = [
        (a, b) for i, a in enumerate(valued) for b in valued[i + 1 :] if a.row.steps == b.row.steps
    ]
    wanted += [(a, b) for a, b in pairwise(line) if a.row.steps != b.row.steps]
    found = ((a, b, tie(pairs, a, b)) for a, b in wanted)
    return [(a, b, why) for a, b, why in found if why is not None]
