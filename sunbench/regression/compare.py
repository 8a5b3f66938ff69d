"""Whether a run is worse than a baseline: rows matched by what they mean, a verdict for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.bench.integrity import problems
from sunbench.bench.paired_scores import Side, Texts, open_side, read_scores, write_light
from sunbench.errors import UserError
from sunbench.metrics import Estimate, Tolerance, mean_estimate
from sunbench.metrics.registry import find_metric
from sunbench.regression.tolerances import load_tolerances, tolerance_of
from sunbench.store import CellRecord, ResultRow

#: Worst first.
VERDICTS = ("worse", "not comparable", "better", "same", "new")


@dataclass(frozen=True)
class Known:
    """A row with the cell behind it and the side it is from."""

    row: ResultRow
    cell: CellRecord
    side: Side

    @property
    def meaning(self) -> tuple[Any, ...]:
        """What the row says, wherever it stands; the first six parts are its name."""
        r, c = self.row, self.cell.content
        name = (r.model, r.role, r.method, r.steps, r.task, r.metric)
        return (*name, c["prompts"]["hash"], tuple(c["seeds"]), c["guidance_scale"])

    @property
    def terms(self) -> dict[str, object]:
        """What two rows must share for their numbers to be compared."""
        r, c, reference = self.row, self.cell.content, self.side.reference(self.cell).content
        return {
            "images": r.n,
            "prompt set": f"{c['prompts']['name']} {c['prompts']['hash'][:8]}",
            "seeds": c["seeds"],
            "guidance": c["guidance_scale"],
            "pixels per side": c["resolution"],
            "reference": f"{reference['method']} at {reference['steps']} steps",
            "protocol": r.protocol,
            "feature network": r.feature_key,
        }


@dataclass(frozen=True)
class Verdict:
    """One row's verdict; change: run minus baseline; excess: the change in units of the limit."""

    row: ResultRow
    verdict: str
    why: str = ""
    value: float | None = None
    change: Estimate | None = None
    limit: float | None = None
    excess: float = 0.0
    missing: bool = False

    @property
    def told(self) -> str:
        """The change with its interval, or why there is none."""
        if self.change is None:
            return self.why
        c = self.change
        return f"{c.value:+.3g} [{c.low:+.3g}, {c.high:+.3g}], {self.why}"

    @property
    def rank(self) -> tuple[int, float, bool]:
        """Worst first; what is only missing after what means something else."""
        return VERDICTS.index(self.verdict), -self.excess, self.missing


@dataclass(frozen=True)
class RunComparison:
    """Verdicts, worst first; or the problems that void the run; and what else is not the same."""

    verdicts: tuple[Verdict, ...]
    problems: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    def of(self, verdict: str) -> list[Verdict]:
        """The rows of one verdict."""
        return [v for v in self.verdicts if v.verdict == verdict]

    def exit_code(self, allow_missing: bool = False) -> int:
        """0: nothing worse; 1: worse; 2: cannot be compared (a worse row is told first)."""
        if self.problems:
            return 2
        if self.of("worse"):
            return 1
        left = [v for v in self.of("not comparable") if not (allow_missing and v.missing)]
        return 2 if left else 0

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            return f"The run cannot be compared: {self.problems[0]}{more}."
        for verdict, words in (("worse", "Worse"), ("not comparable", "Not comparable")):
            if verdicts := self.of(verdict):
                first = f"{verdicts[0].row.name} ({verdicts[0].told})"
                return f"{words}: {len(verdicts)} of {len(self.verdicts)} rows, first {first}."
        counts = ", ".join(f"{len(self.of(v))} {v}" for v in VERDICTS[2:] if self.of(v))
        return f"No row is worse than the baseline: {counts}."


# ------------------------------------------------------------------------------ comparing


def compare(
    baseline: Path, run: Path, tolerances: Mapping[str, Tolerance] | None = None
) -> RunComparison:
    """Compare a run's folder with a baseline: a run's folder too, or a light one.

    Errors: UserError when either cannot be read, or when no row can be compared.
    """
    texts, table = Texts(), load_tolerances() if tolerances is None else tolerances
    a, b = open_side(baseline), open_side(run)
    if b.light:
        raise UserError(f"{run}: given a light baseline, expected the folder of a run")
    if broken := tuple(problems(b)):
        return RunComparison((), broken)
    read_scores(a, texts)
    read_scores(b, texts)
    partners = list(_partners(_known(a), _known(b)))
    verdicts = sorted((_verdict(x, y, table) for x, y in partners), key=lambda v: v.rank)
    if not any(v.change is not None for v in verdicts):
        why = next((v.why for v in verdicts if v.verdict == "not comparable"), "no row has a value")
        raise UserError(f"{run} cannot be compared with {baseline}: {why}")
    return RunComparison(tuple(verdicts), (), tuple(_changes(partners)))


def _known(side: Side) -> dict[tuple[Any, ...], Known]:
    out: dict[tuple[Any, ...], Known] = {}
    for row in side.rows:
        known = Known(row, side.cell(row), side)
        if known.meaning in out:
            raise UserError(f"{side.path}: given two rows of {row.name}, expected one")
        out[known.meaning] = known
    return out


def _partners(
    a: dict[tuple[Any, ...], Known], b: dict[tuple[Any, ...], Known]
) -> Iterator[tuple[Known | None, Known | None]]:
    """Rows of equal meaning; then those that have only the name in common; then the rest."""
    left = {m: k for m, k in b.items() if m not in a}
    for meaning, known in a.items():
        if meaning in b:
            yield known, b[meaning]
        else:
            near = next((m for m in left if m[:6] == meaning[:6]), None)
            yield known, None if near is None else left.pop(near)
    yield from ((None, known) for known in left.values())


def _verdict(a: Known | None, b: Known | None, table: Mapping[str, Tolerance]) -> Verdict:
    if a is None:
        assert b is not None
        return Verdict(b.row, "new", "the baseline has no such row", b.row.value)
    if b is None:
        return Verdict(a.row, "not comparable", "missing in the run", missing=True)
    value = b.row.value
    if a.row.value is None:
        why = f"the baseline has none: {a.row.reason}"
        return Verdict(a.row, "same" if value is None else "new", why, value)
    if value is None:
        why = f"the run has none: {b.row.reason}"
        return Verdict(a.row, "not comparable", why, missing=True)
    other = b.terms
    for name, term in a.terms.items():
        if term != other[name]:
            why = f"{name}: {other[name]}, the baseline's {term}"
            return Verdict(a.row, "not comparable", why, value)
    return _judged(a, b, tolerance_of(a.row.metric, table))


def _judged(a: Known, b: Known, tolerance: Tolerance) -> Verdict:
    """Worse or better when the whole interval of the change is beyond the tolerance."""
    assert a.row.value is not None
    gaps = _gaps(a, b)
    clusters = np.arange(a.row.n) // len(a.cell.content["seeds"])
    change = _apart(a.row, b.row) if gaps is None else mean_estimate(gaps, clusters)
    if change is None or not math.isfinite(change.low):
        return Verdict(a.row, "not comparable", "no interval", b.row.value)
    limit = tolerance.limit(a.row.value)
    verdict, beyond = _beyond(change, limit, find_metric(a.row.metric).metric.better)
    why = "by intervals" if gaps is None else "by pairs"
    if a.cell.role != "candidate":
        if verdict == "same" and gaps is not None and tolerance.moved is not None:
            change, limit = mean_estimate(np.abs(gaps), clusters), tolerance.moved
            verdict, beyond = _beyond(change, limit, "lower")
            why = "mean |change| by pairs"
        if verdict != "same":
            verdict, beyond, why = "worse", abs(beyond), f"the reference itself moved, {why}"
    excess = beyond / limit if limit > 0 else math.copysign(math.inf, beyond)
    return Verdict(a.row, verdict, why, b.row.value, change, limit, excess)


def _gaps(a: Known, b: Known) -> NDArray[np.float64] | None:
    """Run minus baseline of every image, where both have a value per image."""
    x, y = (k.side.values.get((k.row.key, k.row.metric)) for k in (a, b))
    return None if x is None or y is None else y.astype(np.float64) - x.astype(np.float64)


def _beyond(change: Estimate, limit: float, better: str) -> tuple[str, float]:
    """The verdict, and how far in the bad direction the interval's nearer end lies."""
    sign = 1 if better == "lower" else -1
    low, high = sorted((sign * change.low, sign * change.high))
    if low > limit:
        return "worse", low
    return ("better", high) if high < -limit else ("same", 0.0)


def _apart(a: ResultRow, b: ResultRow) -> Estimate | None:
    """The change of a value from two intervals alone, as if the two were independent.

    Source: Zou & Donner (2008), Statistics in Medicine 27, 1693-1702, the MOVER interval.
    """
    if a.value is None or b.value is None or None in (a.low, a.high, b.low, b.high):
        return None
    assert a.low is not None
    assert a.high is not None
    assert b.low is not None
    assert b.high is not None
    d = b.value - a.value
    low = d - math.hypot(b.value - b.low, a.high - a.value)
    high = d + math.hypot(b.high - b.value, a.value - a.low)
    return Estimate(d, low, high, a.n)


# ------------------------------------------------------------------------------ what changed


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for part, inner in content.items():
            yield from _flat(inner, f"{name}.{part}" if name else part)
    else:
        text = str(content)
        yield name, text[:8] if name.startswith("weights.") else text


def _changes(partners: list[tuple[Known | None, Known | None]]) -> Iterator[str]:
    """Settings, weights and counted NFE that are not the same, each with its cells."""
    cells_by_change: dict[str, dict[str, None]] = {}
    for a, b in partners:
        if a is None or b is None:
            continue
        mine, theirs = (
            dict(_flat({**k.cell.content, "nfe": k.row.nfe if k.row.value is not None else None}))
            for k in (a, b)
        )
        for name in sorted(mine.keys() | theirs.keys()):
            x, y = mine.get(name, "none"), theirs.get(name, "none")
            if x != y:
                where = f"{a.row.model} · {a.row.method} · {a.row.steps} steps"
                cells_by_change.setdefault(f"{name}: {x} -> {y}", {})[where] = None
    for text, cells in cells_by_change.items():
        yield f"{text} ({'; '.join(cells)})"


def save_baseline(run: Path, folder: Path) -> None:
    """Write a sound run's numbers and per-image scores, without images, for later comparisons."""
    side = open_side(run)
    if wrong := [] if side.light else problems(side):
        raise UserError(f"{run} cannot be a baseline: {wrong[0]}")
    read_scores(side, Texts())
    write_light(side, folder)
