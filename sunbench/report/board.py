"""One board of a run: all methods at equal budgets of U-Net evaluations, nearest first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sunbench.errors import UserError
from sunbench.registry import caveats
from sunbench.report.choice import Point, complete, default_distance, front, points, win_rate
from sunbench.report.data import RunData, model_names
from sunbench.report.formats import markdown_table, plain
from sunbench.report.texts import cell_text, nfe_text
from sunbench.report.times import FLAG, flags
from sunbench.store import PairRow, ResultRow, budget_of

NOTE = (
    "Rows are sorted by distance to the reference's images; intervals are 95 %. In seed units 0 is"
    " the reference's image and 1 as far as another seed. NFE is counted, per image. ★ is on the"
    " front of end-to-end time at batch 1 against distance. *Farther than the first* is the paired"
    " difference of distances from the budget's nearest row, prompt by prompt, where the run"
    " compares the two (with `--nfe` it does); its interval holds for all comparisons together, and"
    " ≈ marks a difference that does not hold."
)


def command(row: ResultRow) -> str:
    """What measures a row again."""
    return (
        f'sunbench run --models {row.model} --methods "{row.method}" --steps {row.steps}'
        f" --images {row.n}"
    )


def farther(first: Point, point: Point, pairs: Iterable[PairRow]) -> str:
    """The paired difference of distances of a point from another, with its interval."""
    pair = win_rate(pairs, first, point)
    if pair is None or pair.difference is None:
        return "–"
    value = pair.difference
    low, high = pair.difference_low or 0.0, pair.difference_high or 0.0
    if pair.cells[0] == (first.row.method, first.row.steps):
        value, low, high = -value, -high, -low
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]{'' if pair.distinguishable else ' ≈'}"


def _line(point: Point, best: bool, difference: str) -> list[str]:
    row = point.row
    relative = "–" if row.relative is None else f"{row.relative:.2f}"
    ms = "–" if point.latency_ms is None else f"{point.latency_ms:.1f}"
    ms += FLAG if point.gain is not None and point.gain.flag else ""
    name = f"`{row.method}`" + (" ★" if best else "")
    own = [name, str(row.steps), nfe_text([row]), cell_text(row), relative, difference, ms]
    return [*own, f"`{command(row)}`"]


def _not_run(own: RunData, metric: str) -> list[str]:
    """A line per method and reason, with the steps that it holds for."""
    steps: dict[tuple[str, str], list[int]] = {}
    for r in own.rows:
        if r.role == "candidate" and r.metric == metric and r.reason is not None:
            steps.setdefault((r.method, r.reason.removeprefix(f"{r.method}: ")), []).append(r.steps)
    return [
        f"- `{plain(name)}` at {', '.join(map(str, sorted(at)))} steps: {plain(why)}"
        for (name, why), at in sorted(steps.items(), key=lambda x: (x[0][0], min(x[1])))
    ]


def _section(data: RunData, model: str, metric: str, budgets: Sequence[int]) -> list[str]:
    own = data.of_model(model)
    every = [p for p in points(own.rows, own.times, model, metric) if p.row.value is not None]
    best = {id(p) for p in front(complete(every))}
    head = ["method", "steps", "NFE", metric, "seed units", "farther than the first"]
    head += ["ms per image", "command"]
    sizes = " or ".join(f"{n:,}" for n in sorted({p.row.n for p in every}))
    parts = [f"## {plain(model)}", *([f"{sizes} images per row."] if sizes else [])]
    groups: dict[int | None, list[Point]] = {}
    for point in every:
        nfe = math.inf if point.row.nfe is None else point.row.nfe
        groups.setdefault(budget_of(nfe, budgets), []).append(point)
    for budget in sorted(groups, key=lambda b: math.inf if b is None else b):
        title = "Above all budgets" if budget is None else f"Up to {budget} NFE"
        first, *rest = sorted(groups[budget], key=lambda p: p.loss)
        lines = [_line(first, id(first) in best, "–")]
        lines += [_line(p, id(p) in best, farther(first, p, own.win_rates)) for p in rest]
        parts += [f"### {title}", markdown_table(head, lines, left=1)]
    if missing := _not_run(own, metric):
        parts += ["### Not run", "\n".join(missing)]
    parts += [plain(note) for note in caveats(r.method for r in own.rows)]
    if doubts := flags(own.times):
        parts += ["### Times in doubt", "\n".join(f"- †{plain(doubt)}" for doubt in doubts)]
    return parts


def board(data: RunData, budgets: Sequence[int], metric: str | None = None) -> str:
    """The board as Markdown.

    budgets: NFE per image, what its run was asked for or any others. metric: by default the run's
    first distance.
    Errors: UserError for a run without a distance, or a metric that it does not have.
    """
    chosen = metric or default_distance(data.rows)
    if chosen is None or chosen not in {r.metric for r in data.rows}:
        raise UserError(f"given metric {chosen}, expected one that the run has")
    parts = ["# Board", NOTE]
    for model in model_names(data.rows):
        parts += _section(data, model, chosen, sorted(budgets))
    return "\n\n".join(parts) + "\n"
