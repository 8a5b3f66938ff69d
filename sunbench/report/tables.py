"""Tables of a run: results, latency, training requirements, win rates, and all in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

import pandas as pd

from sunbench.metrics.comparisons import EQUIVALENCE_SHARE
from sunbench.metrics.registry import find_metric
from sunbench.registry import caveats
from sunbench.report.choice import default_distance, equal_work
from sunbench.report.data import ROLE_NAMES, CellTime, RunData, model_names, printed_name, read_run
from sunbench.report.formats import Table, csv_text, latex_table, markdown_table, plain
from sunbench.report.headline import cells_of, headline
from sunbench.report.ranks import ORDER, finite_n_table, rank_texts, set_pair_table, unordered
from sunbench.report.texts import cell_text, nfe_text, number, percent, with_arrow, yes_no
from sunbench.report.times import flags, throughput_table, time_table, timing_frame
from sunbench.store import (
    PairRow,
    ResultRow,
    RunFolder,
    TrainingRequirements,
    make_folder,
    write_atomic,
)

#: How the floor is printed.
FLOOR = ROLE_NAMES["floor"]
#: What verdicts are.
VERDICTS = (
    "Intervals of a metric's differences hold together (max-T). A verdict says what its interval"
    " shows: one is closer where it excludes 0, both are equivalent where it lies in the margin,"
    f" ±{percent(EQUIVALENCE_SHARE)} of a new seed's distance, even if one is surely closer by"
    " less."
)


def results_frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Every result row, full precision, a column per field."""
    names = [f.name for f in fields(ResultRow)]
    return pd.DataFrame([[getattr(r, n) for n in names] for r in rows], columns=names, dtype=object)


def requirements_table(needs: Sequence[TrainingRequirements]) -> Table:
    """What a method needs beside a model; a dash where it is not known or there is none."""
    head = ["method", "training", "negative prompts", "trained on"]
    head += ["parameters", "training images", "training s"]
    lines = [
        [n.method, n.training or "–", yes_no(n.negative_prompts), n.base or "–"]
        + ["–" if x is None else f"{x:,.0f}" for x in (n.parameters, n.images, n.seconds)]
        for n in needs
    ]
    if any(n.license for n in needs):  # of published weights
        head = [*head, "license"]
        lines = [[*line, n.license or "–"] for line, n in zip(lines, needs, strict=True)]
    return head, lines


def win_rate_table(win_rates: Sequence[PairRow]) -> Table:
    """On what share of prompts A is closer than B, and which differences hold."""
    lines = []
    for w in win_rates:
        rate = f"{w.a_closer:.3f} [{w.low:.3f}, {w.high:.3f}]"
        lines.append([w.metric, w.a, w.b, w.steps_text, rate, w.difference_text, w.verdict])
    head = ["metric", "A", "B", "steps", "A closer", "difference of distances", "verdict"]
    return head, lines


def summary(
    rows: Sequence[ResultRow], times: Sequence[CellTime], needs: Sequence[TrainingRequirements]
) -> Table:
    """Everything of every cell in one line: metrics, latency, training requirements.

    Values stand without their intervals, which results.csv has.
    """
    metrics = list(dict.fromkeys(r.metric for r in rows))
    spent = {(t.model, t.role, t.method, t.steps): t for t in times}
    spent |= {(t.model, t.role, "", t.steps): t for t in times if t.role != "candidate"}
    required = {(n.model, n.method): n for n in needs}
    table = []
    for model in model_names(rows):
        for (role, method, steps), own in cells_of([r for r in rows if r.model == model]).items():
            t = spent.get((model, role, method if role == "candidate" else "", steps))
            values = [own.get(m) for m in metrics]
            texts = [
                cell_text(r) if r is None or r.value is None else number(r.value) for r in values
            ]
            ms = ["–", "–"] if t is None else [f"{t.latency_ms:.2f}", f"{t.unet_ms:.2f}"]
            name = printed_name(next(iter(own.values())))
            need = required.get((model, method)) if role == "candidate" else None
            line = [model, name, str(steps), nfe_text(own.values()), *texts, *ms]
            table.append([*line, *_requirement_cells(need)])
    head = ["model", "method", "steps", "NFE", *map(with_arrow, metrics)]
    head += ["end to end ms", "U-Net ms", "training", "negative prompts"]
    return [*head, "trained parameters", "training images", "training s"], table


def _requirement_cells(need: TrainingRequirements | None) -> list[str]:
    if need is None:
        return ["–"] * 5
    cost = (need.parameters, need.images, need.seconds)
    return [need.training or "–", yes_no(need.negative_prompts)] + [
        "–" if n is None else f"{n:.0f}" for n in cost
    ]


# ------------------------------------------------------------------------------ files


def _floor_line(rows: Sequence[ResultRow], model: str) -> str:
    own = [r for r in rows if r.model == model and r.role == "floor" and r.value is not None]
    sets = [r for r in own if find_metric(r.metric).metric.compares == "sets"]
    if not sets:
        return "No floor was measured."
    values = ", ".join(f"{r.metric} {cell_text(r)}" for r in sets)
    return (
        f"Floor (reference against reference with other seeds, same N): {values}. "
        "Candidates share the reference's noise, so they can lie below it."
    )


def tables_markdown(data: RunData) -> str:
    """All tables of a run that equal runs share, as one Markdown page."""
    parts = []
    for model in model_names(data.rows):
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
        parts += _comparison_parts(data.of_model(model))
    return "\n\n".join(parts) + "\n"


def notes(data: RunData, model: str) -> list[str]:
    """What the headline table's ranks and marks mean, and what to know of some methods."""
    own, out = data.of_model(model), []
    main, equal = default_distance(own.rows), equal_work(own.win_rates)
    if rank_texts(own.win_rates, main):
        out.append(
            f"Ranks are by {main} among methods at equal {equal}; a range where methods are"
            " equivalent or not distinguishable, all comparisons taken together."
        )
    if unordered(own.set_pairs):
        out.append(
            f"{ORDER.strip()}: the order of this method and another at equal {equal} is not the"
            " same at N, at N / 2 and extrapolated, so this number of images does not settle it."
        )
    return [*out, *caveats(r.method for r in own.rows)]


def _comparison_parts(own: RunData) -> list[str]:
    """One model's comparisons of methods, and what its distances of sets owe to N."""
    parts = ["### Comparisons of methods", VERDICTS] if own.win_rates or own.set_pairs else []
    if own.win_rates:
        parts += [
            "### Per-prompt win rate",
            "Share of prompts on which A is closer to the reference than B (ties count half), and"
            " the difference of their distances.",
            markdown_table(*win_rate_table(own.win_rates)),
        ]
    if own.finite_n:
        parts += [
            "### Distances of sets and the number of images",
            markdown_table(*finite_n_table(own.finite_n, FLOOR)),
        ]
    if own.set_pairs:
        parts += [
            f"Differences between methods at equal {equal_work(own.win_rates)}:",
            markdown_table(*set_pair_table(own.set_pairs)),
        ]
    return parts


def latency_markdown(data: RunData) -> str:
    """Latency per image of every model, with the reasons for flagged speed-ups."""
    parts = []
    for model in model_names(data.rows):
        own = [t for t in data.times if t.model == model]
        parts += [f"## {plain(model)}: latency per image", markdown_table(*time_table(own))]
        parts += ["\n".join(f"- †{plain(f)}" for f in flags(own))] if flags(own) else []
        if rows := [r for r in data.timing if r.model == model]:
            parts += [f"## {plain(model)}: throughput and memory"]
            parts += [markdown_table(*throughput_table(rows))]
    return "\n\n".join(parts) + "\n"


def tables_latex(rows: Sequence[ResultRow]) -> str:
    """One booktabs tabular per model."""
    return "\n\n".join(latex_table(headline(rows, m), m) for m in model_names(rows)) + "\n"


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
        "results.md": tables_markdown(data),
        "results.csv": csv_text(results_frame(data.rows)),
        "results.tex": tables_latex(data.rows),
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
    make_folder(folder)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
