"""Which ranks are possible, and what distances of sets owe to their number of images."""

from __future__ import annotations

from collections.abc import Sequence

from sunbench.metrics.comparisons import rank_intervals
from sunbench.report.formats import Table
from sunbench.store import FiniteNRow, PairRow, SetPairRow

#: Marks a distance of sets whose order with another method changes with the number of images.
ORDER = " ‡"


def rank_texts(pairs: Sequence[PairRow], metric: str | None) -> dict[tuple[str, int], str]:
    """(method, steps) -> its possible ranks among methods at equal steps or NFE: "1" or "1–3".

    pairs: one model's. Their verdicts decide: who is closer and not equivalent stands before.
    """
    out: dict[tuple[str, int], str] = {}
    own = [p for p in pairs if p.metric == metric and p.difference is not None]
    for place in dict.fromkeys(p.place for p in own):
        here = [p for p in own if p.place == place]
        cells = list(dict.fromkeys(c for p in here for c in p.cells))
        closer = [_in_order(p) for p in here if p.distinguishable and not p.equivalent]
        for cell, (first, last) in rank_intervals(cells, closer).items():
            out[cell] = str(first) if first == last else f"{first}–{last}"
    return out


def _in_order(p: PairRow) -> tuple[tuple[str, int], tuple[str, int]]:
    return p.cells if p.a_is_closer else p.cells[::-1]


def unordered(set_pairs: Sequence[SetPairRow]) -> set[tuple[str, int, str]]:
    """(method, steps, metric) of the cells whose order with another depends on N."""
    return {(*cell, p.metric) for p in set_pairs if p.order_holds is False for cell in p.cells}


def finite_n_table(rows: Sequence[FiniteNRow], floor_name: str) -> Table:
    """Distances of sets at N, over the floor's, at N / 2 and extrapolated; the mean's noise."""
    head = ["metric", "method", "steps", "at N", "over the floor's", "at N / 2", "N to infinity"]
    floors = {r.metric: r.value for r in rows if r.role == "floor"}
    lines = []
    for r in sorted(rows, key=lambda r: (r.metric, r.role == "floor")):
        name = floor_name if r.role == "floor" else r.method
        floor = floors.get(r.metric, 0.0)
        share = f"{r.value / floor:.2f}" if floor > 0 else "–"
        numbers = [f"{x:.4g}" for x in (r.half, r.infinity, r.mean_bias)]
        lines.append([r.metric, name, str(r.steps), f"{r.value:.4g}", share, *numbers])
    return [*head, "noise of the mean"], lines


def set_pair_table(rows: Sequence[SetPairRow]) -> Table:
    """Differences of two methods' distances of sets, and whether their order depends on N."""
    head = ["metric", "A", "B", "steps", "A - B", "verdict", "order at N / 2, N, infinity"]
    orders = {True: "the same", False: "changes", None: "–"}
    lines = []
    for p in rows:
        span = p.difference_text
        line = [p.metric, p.a, p.b, p.steps_text, span, p.verdict, orders[p.order_holds]]
        lines.append(line)
    return head, lines
