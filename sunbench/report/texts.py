"""Values of a run as text: numbers with intervals, reasons of gaps, heads of columns."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sunbench.metrics.registry import find_metric
from sunbench.registry import turns
from sunbench.store import ResultRow

ARROWS = {"lower": "↓", "higher": "↑"}


def number(value: float) -> str:
    """Four significant digits, never in exponent form for everyday sizes."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2e}"
    digits = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def cell_text(row: ResultRow | None) -> str:
    """A value with its interval, or why there is none."""
    if row is None:
        return "–"
    if row.value is None:
        return str(row.reason)
    if row.low is None or row.high is None:
        return number(row.value)
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"


def short_text(row: ResultRow | None) -> str:
    """A value with half its interval's width below it, for narrow screens; reasons go elsewhere.

    Both have the decimals that the width's first two digits need.
    """
    if row is not None and row.reason is not None:
        return "n/a"
    if row is None or row.value is None or row.low is None or row.high is None:
        return cell_text(row)
    half = (row.high - row.low) / 2
    if half == 0:
        return cell_text(row).split(" ")[0]
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{row.value:.{digits}f}\n±{half:.{digits}f}"


def percent(share: float) -> str:
    """A share in percent: "19 %"."""
    return f"{100 * share:.0f} %"


def percent_text(row: ResultRow | None) -> str:
    """A distance relative to the floor's: "38 [36, 40]", 100 being another seed of the prompt."""
    if row is None or row.relative is None:
        return "–"
    if row.relative_low is None or row.relative_high is None:
        return f"{100 * row.relative:.0f}"
    ends = f"[{100 * row.relative_low:.0f}, {100 * row.relative_high:.0f}]"
    return f"{100 * row.relative:.0f} {ends}"


def reasons(rows: Iterable[ResultRow]) -> list[str]:
    """Each distinct reason for a missing value, with what it is missing from."""
    missing: dict[str, list[str]] = {}
    for r in rows:
        if r.reason is not None:
            missing.setdefault(r.reason, []).append(r.metric)
    return [f"{', '.join(dict.fromkeys(m))}: {reason}" for reason, m in missing.items()]


def with_arrow(metric: str) -> str:
    """A column's head: the metric and which way is better."""
    return f"{metric} {ARROWS[find_metric(metric).metric.better]}"


def yes_no(known: bool | None) -> str:
    """Yes, no, or a dash for what is not known."""
    return {True: "yes", False: "no", None: "–"}[known]


def nfe_text(rows: Iterable[ResultRow]) -> str:
    """The NFE that a cell's rows agree on; a dash where none was counted."""
    return next((evaluations(r.method, r.nfe) for r in rows if r.nfe is not None), "–")


def evaluations(method: str, nfe: float | None, digits: int = 6) -> str:
    """The NFE of a method, of networks in turns also each one's: "50 (20 + 30)"."""
    if nfe is None:
        return "–"
    shares = by_network(method, nfe)
    return f"{nfe:.{digits}g}" + f" ({shares})" * bool(shares)


def by_network(method: str, nfe: float | None) -> str:
    """The NFE of each network that takes turns, in order, every step of one being as many.

    "" for any other method, and for one network alone.
    """
    steps = [n for _, n in turns(method)]
    if nfe is None or len(steps) < 2:
        return ""
    return " + ".join(f"{nfe * n / sum(steps):g}" for n in steps)
