"""Tables of a run: results, latency, training requirements, win rates, and all in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields

import pandas as pd

from sunbench.metrics.registry import find
from sunbench.report.choice import default_distance, is_candidate
from sunbench.report.data import (
    ROLE_NAMES,
    CellTime,
    Requirements,
    RunData,
    WinRate,
    models,
    printed_name,
    read_run,
    reference_time,
    speed_up,
)
from sunbench.report.formats import Table, csv_text, latex_table, markdown_table, plain
from sunbench.report.ranks import ORDER, finite_n_table, rank_texts, set_pair_table, unordered
from sunbench.store import ResultRow, RunFolder, SetPairRow, write_atomic
from sunbench.store.timings import Spread, TimingRow

#: How the floor is printed.
FLOOR = ROLE_NAMES["floor"]
ARROWS = {"lower": "↓", "higher": "↑"}
RELATIVE = "moves, % of a new seed ↓"
SPEED_UP = "speed-up"
RANK = "rank at its steps"
FLAG = " †"


# ------------------------------------------------------------------------------ cells


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
    return f"{metric} {ARROWS[find(metric).metric.better]}"


def _yes(known: bool | None) -> str:
    return {True: "yes", False: "no", None: "–"}[known]


def _nfe(rows: Iterable[ResultRow]) -> str:
    return next((f"{r.nfe:g}" for r in rows if r.nfe is not None), "–")


# ------------------------------------------------------------------------------ results


def headline(
    rows: Sequence[ResultRow],
    model: str,
    text: Callable[[ResultRow | None], str] = cell_text,
    times: Sequence[CellTime] = (),
    pairs: Sequence[WinRate] = (),
    set_pairs: Sequence[SetPairRow] = (),
) -> Table:
    """One model's table: a line per method and steps, a column per metric.

    The distance relative to a new seed leads where the run has it; its possible ranks and the
    end-to-end speed-up stand beside it where comparisons and times are passed. A distance of sets
    whose order with another method depends on N is marked.
    """
    mine = [r for r in rows if r.model == model]
    main, metrics = default_distance(mine), list(dict.fromkeys(r.metric for r in mine))
    relative = any(r.relative is not None for r in mine if r.metric == main)
    gains = _gain_texts(times, model)
    ranks = rank_texts([p for p in pairs if p.model == model], main)
    marked = unordered([p for p in set_pairs if p.model == model])
    head = ["method", "steps", "NFE"] + [RELATIVE] * relative + [RANK] * bool(ranks)
    head += [SPEED_UP] * bool(gains)
    lines = []
    for (role, method, steps), own in _cells(mine).items():
        place = (role, method, steps)
        first = next(iter(own.values()))
        line = [printed_name(first), str(steps), _nfe(own.values())]
        line += [percent_text(own.get(main or ""))] if relative else []
        line += [ranks.get(place[1:], "–") if role == "candidate" else "–"] if ranks else []
        line += [gains.get(place, "–")] if gains else []
        marks = {m for m in metrics if role == "candidate" and (method, steps, m) in marked}
        lines.append([*line, *(text(own.get(m)) + ORDER * (m in marks) for m in metrics)])
    return [*head, *map(with_arrow, metrics)], lines


def _cells(rows: Iterable[ResultRow]) -> dict[tuple[str, str, int], dict[str, ResultRow]]:
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
        choose = min if find(metric).metric.better == "lower" else max
        best = choose(r.value for r in own if r.value is not None)
        out[metric] = {(r.method, r.steps) for r in own if r.value == best}
    return out


def results_frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Every result row, full precision, a column per field."""
    names = [f.name for f in fields(ResultRow)]
    return pd.DataFrame([[getattr(r, n) for n in names] for r in rows], columns=names, dtype=object)


# ------------------------------------------------------------------------------ the rest


def time_table(times: Sequence[CellTime]) -> Table:
    """Latency per image at batch 1, and how many times as fast as the reference."""
    head = ["method", "steps", "NFE", "end to end ms", "U-Net ms", SPEED_UP, "U-Net speed-up"]
    lines = []
    for t in times:
        if t.role in ("floor", "source"):
            continue
        gain = speed_up(t, reference_time(times, t.model))
        mark = FLAG if gain is not None and gain.flag else ""
        both = (None, None) if gain is None else (gain.end_to_end, gain.unet)
        ups = ["–" if x is None else f"{x:.2f}x{mark}" for x in both]
        name = ROLE_NAMES.get(t.role, t.method)
        ms = [f"{x:.2f}" for x in (t.latency_ms, t.unet_ms)]
        lines.append([name, str(t.steps), f"{t.nfe:.4g}", *ms, *ups])
    return head, lines


def flags(times: Sequence[CellTime]) -> list[str]:
    """Each reason to doubt a speed-up, with the methods whose it is."""
    doubted: dict[str, list[str]] = {}
    own = [t for t in times if t.role == "candidate"]
    for t in own:
        gain = speed_up(t, reference_time(times, t.model))
        for reason in gain.flag.split("; ") if gain is not None and gain.flag else []:
            doubted.setdefault(reason, []).append(f"{t.method} at {t.steps} steps")
    return [
        f"{'every method' if len(names) == len(own) > 1 else ', '.join(names)}: {reason}"
        for reason, names in doubted.items()
    ]


def throughput_table(rows: Sequence[TimingRow]) -> Table:
    """Images per second and peak memory of each method at each batch size that was timed."""
    head = ["method", "steps", "batch", "ms per batch", "images per second", "peak MB", "rounds"]
    lines = []
    for row in rows:
        ms, speed = row.latency_ms, row.images_per_second
        peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"
        mark = FLAG if row.flags else ""
        lines.append(
            [
                ROLE_NAMES.get(row.role, row.method),
                *(str(row.steps), str(row.batch)),
                f"{ms.median:.2f} [{ms.low:.2f}, {ms.high:.2f}]{mark}",
                f"{speed.median:.2f}{mark}",
                *(peak, str(row.rounds)),
            ]
        )
    return head, lines


def timing_frame(rows: Sequence[TimingRow]) -> pd.DataFrame:
    """Every timing row, flat and with full precision: medians and quartiles."""
    records = []
    for r in rows:
        spreads: dict[str, Spread | None] = {"latency_ms": r.latency_ms, "unet_ms": r.unet_ms}
        spreads |= {"images_per_second": r.images_per_second}
        spreads |= {"speed_up": r.speed_up, "unet_speed_up": r.unet_speed_up}
        names = ("model", "method", "role", "steps", "task", "resolution", "batch", "nfe")
        record = {n: getattr(r, n) for n in (*names, "level", "rounds", "nfe_ratio", "peak_bytes")}
        for name, values in spreads.items():
            low, high = (None, None) if values is None else (values.low, values.high)
            record[name] = None if values is None else values.median
            record |= {f"{name}_low": low, f"{name}_high": high}
        machine = {n: getattr(r.machine, n) for n in ("device", "dtype", "threads", "other_cpus")}
        records.append({**record, **machine, "flags": "; ".join(r.flags)})
    return pd.DataFrame(records, dtype=object)


def requirements_table(needs: Sequence[Requirements]) -> Table:
    """What a method needs beside a model; a dash where it is not known or there is none."""
    head = ["method", "training", "negative prompts", "trained on"]
    head += ["parameters", "training images", "training s"]
    lines = [
        [n.method, n.training or "–", _yes(n.negative_prompts), n.base or "–"]
        + ["–" if x is None else f"{x:,.0f}" for x in (n.parameters, n.images, n.seconds)]
        for n in needs
    ]
    if any(n.licence for n in needs):  # of published weights
        head = [*head, "licence"]
        lines = [[*line, n.licence or "–"] for line, n in zip(lines, needs, strict=True)]
    return head, lines


def win_rate_table(win_rates: Sequence[WinRate]) -> Table:
    """On what share of prompts A is closer than B, and which differences hold."""
    lines = []
    for w in win_rates:
        rate = f"{w.a_closer:.3f} [{w.low:.3f}, {w.high:.3f}]"
        lines.append([w.metric, w.a, w.b, str(w.steps), rate, _difference(w), w.verdict])
    head = ["metric", "A", "B", "steps", "A closer", "difference of distances", "verdict"]
    return head, lines


def _difference(w: WinRate) -> str:
    if w.difference is None or w.difference_low is None or w.difference_high is None:
        return "–"
    return f"{w.difference:+.3g} [{w.difference_low:+.3g}, {w.difference_high:+.3g}]"


def summary(
    rows: Sequence[ResultRow], times: Sequence[CellTime], needs: Sequence[Requirements]
) -> Table:
    """Everything of every cell in one line: metrics, latency, training requirements.

    Values stand without their intervals, which results.csv has.
    """
    metrics = list(dict.fromkeys(r.metric for r in rows))
    spent = {(t.model, t.role, t.method, t.steps): t for t in times}
    spent |= {(t.model, t.role, "", t.steps): t for t in times if t.role != "candidate"}
    required = {(n.model, n.method): n for n in needs}
    table = []
    for model in models(rows):
        for (role, method, steps), own in _cells([r for r in rows if r.model == model]).items():
            t = spent.get((model, role, method if role == "candidate" else "", steps))
            values = [own.get(m) for m in metrics]
            texts = [
                cell_text(r) if r is None or r.value is None else number(r.value) for r in values
            ]
            ms = ["–", "–"] if t is None else [f"{t.latency_ms:.2f}", f"{t.unet_ms:.2f}"]
            name = printed_name(next(iter(own.values())))
            need = required.get((model, method)) if role == "candidate" else None
            line = [model, name, str(steps), _nfe(own.values()), *texts, *ms]
            table.append([*line, *_requirement_cells(need)])
    head = ["model", "method", "steps", "NFE", *map(with_arrow, metrics)]
    head += ["end to end ms", "U-Net ms", "training", "negative prompts"]
    return [*head, "trained parameters", "training images", "training s"], table


def _requirement_cells(need: Requirements | None) -> list[str]:
    if need is None:
        return ["–"] * 5
    cost = (need.parameters, need.images, need.seconds)
    return [need.training or "–", _yes(need.negative_prompts)] + [
        "–" if n is None else f"{n:.0f}" for n in cost
    ]


# ------------------------------------------------------------------------------ files


def _floor_line(rows: Sequence[ResultRow], model: str) -> str:
    own = [r for r in rows if r.model == model and r.role == "floor" and r.value is not None]
    sets = [r for r in own if find(r.metric).metric.compares == "sets"]
    if not sets:
        return "No floor was measured."
    values = ", ".join(f"{r.metric} {cell_text(r)}" for r in sets)
    return (
        f"Floor (reference against reference with other seeds, same N): {values}. "
        "Candidates share the reference's noise, so they can lie below it."
    )


def markdown(data: RunData) -> str:
    """All tables of a run that equal runs share, as one Markdown page."""
    parts = []
    for model in models(data.rows):
        mine = [r for r in data.rows if r.model == model]
        n, task, prompts = mine[0].n, mine[0].task, mine[0].prompts
        parts += [
            f"## {plain(model)}",
            f"{n} images per row, task {task}, prompts {plain(prompts)};"
            " 95 % intervals by bootstrap over prompts.",
            markdown_table(
                *headline(data.rows, model, pairs=data.win_rates, set_pairs=data.set_pairs)
            ),
            *notes(data, model),
            _floor_line(data.rows, model),
        ]
        needs = [n for n in data.requirements if n.model == model]
        if needs:
            parts += ["### Training requirements", markdown_table(*requirements_table(needs))]
        rates = [w for w in data.win_rates if w.model == model]
        if rates:
            parts += [
                "### Per-prompt win rate",
                "Share of prompts on which A is closer to the reference than B (ties count half);"
                " the intervals of a metric's differences hold together.",
                markdown_table(*win_rate_table(rates)),
            ]
        parts += _set_parts(data.of_model(model))
    return "\n\n".join(parts) + "\n"


def notes(data: RunData, model: str) -> list[str]:
    """What the headline table's ranks and marks mean, where it has any."""
    own, out = data.of_model(model), []
    main = default_distance(own.rows)
    if rank_texts(own.win_rates, main):
        out.append(
            f"Ranks are by {main} among methods at equal steps; a range where differences do not"
            " hold after correction for the number of comparisons."
        )
    if unordered(own.set_pairs):
        out.append(
            f"{ORDER.strip()}: the order of this method and another at equal steps is not the same"
            " at N, at N / 2 and extrapolated, so this number of images does not settle it."
        )
    return out


def _set_parts(own: RunData) -> list[str]:
    """One model's distances of sets: what they owe to N, and the differences between methods."""
    parts = []
    if own.finite_n:
        parts += [
            "### Distances of sets and the number of images",
            markdown_table(*finite_n_table(own.finite_n, FLOOR)),
        ]
    if own.set_pairs:
        parts += [
            "Differences between methods at equal steps:",
            markdown_table(*set_pair_table(own.set_pairs)),
        ]
    return parts


def latency_markdown(data: RunData) -> str:
    """Latency per image of every model, with the reasons for flagged speed-ups."""
    parts = []
    for model in models(data.rows):
        own = [t for t in data.times if t.model == model]
        parts += [f"## {plain(model)}: latency per image", markdown_table(*time_table(own))]
        parts += ["\n".join(f"- †{plain(f)}" for f in flags(own))] if flags(own) else []
        if rows := [r for r in data.timing if r.model == model]:
            parts += [f"## {plain(model)}: throughput and memory"]
            parts += [markdown_table(*throughput_table(rows))]
    return "\n\n".join(parts) + "\n"


def latex(rows: Sequence[ResultRow]) -> str:
    """One booktabs tabular per model."""
    return "\n\n".join(latex_table(headline(rows, m), m) for m in models(rows)) + "\n"


def _frame(records: Sequence[object], without: str = "") -> pd.DataFrame:
    kept = [{k: v for k, v in asdict(r).items() if k != without} for r in records]  # type: ignore[call-overload]
    return pd.DataFrame(kept, dtype=object)


def write_tables(run: RunFolder) -> None:
    """Write ``tables/*``: results, latencies, win rates, training requirements, and all in one.

    results.* hold nothing that varies between equal runs; times do, and stand apart; summary.* have
    both, a line per cell.
    """
    data = read_run(run)
    head, lines = summary(data.rows, data.times, data.requirements)
    files = {
        "results.md": markdown(data),
        "results.csv": csv_text(results_frame(data.rows)),
        "results.tex": latex(data.rows),
        "times.md": latency_markdown(data),
        "times.csv": csv_text(timing_frame(data.timing)),
        "pairs.csv": csv_text(_frame(data.win_rates)),
        "set_pairs.csv": csv_text(_frame(data.set_pairs)),
        "finite_n.csv": csv_text(_frame(data.finite_n)),
        "summary.md": markdown_table(head, lines) + "\n",
        "summary.csv": csv_text(pd.DataFrame(lines, columns=head)),
        "training_requirements.csv": csv_text(_frame(data.requirements, without="document")),
    }
    folder = run.path / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
