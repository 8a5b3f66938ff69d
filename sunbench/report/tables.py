"""Tables of a run: Markdown, CSV and LaTeX, from results.json alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sunbench.metrics.registry import find
from sunbench.store import ResultRow, RunFolder, write_atomic
from sunbench.store.runs import result_rows

FLOOR = "reference (other seeds)"
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


def reasons(rows: Iterable[ResultRow]) -> list[str]:
    """Each distinct reason for a missing value, with what it is missing from."""
    found: dict[str, list[str]] = {}
    for r in rows:
        if r.reason is not None:
            found.setdefault(r.reason, []).append(r.metric)
    return [f"{', '.join(dict.fromkeys(m))}: {reason}" for reason, m in found.items()]


def models(rows: Iterable[ResultRow]) -> list[str]:
    """Models in the order of the run."""
    return list(dict.fromkeys(r.model for r in rows))


def floor_value(rows: Iterable[ResultRow], model: str, metric: str) -> float | None:
    """The distance of the reference to itself with other seeds, where it was measured."""
    wanted = (model, metric, FLOOR)
    return next((r.value for r in rows if (r.model, r.metric, r.method) == wanted), None)


def _is_reference(row: ResultRow) -> bool:
    return row.method.startswith("reference")


def headline(
    rows: list[ResultRow], model: str, text: Callable[[ResultRow | None], str] = cell_text
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of one model's table: a line a method and step count, a column a metric."""
    mine = sorted((r for r in rows if r.model == model), key=_is_reference)
    metrics = list(dict.fromkeys(r.metric for r in mine))
    lines: dict[tuple[str, int], dict[str, ResultRow]] = {}
    for r in mine:
        lines.setdefault((r.method, r.steps), {})[r.metric] = r
    table = []
    for (method, steps), found in lines.items():
        nfe = next((r.nfe for r in found.values() if r.nfe is not None), None)
        cells = [text(found.get(m)) for m in metrics]
        table.append([method, str(steps), "–" if nfe is None else str(nfe), *cells])
    head = [f"{m} {_arrow(m)}" for m in metrics]
    return ["method", "steps", "NFE", *head], table


def plain(text: str) -> str:
    """One line of plain text: no backslash, bar or tag keeps a meaning."""
    line = " ".join(text.splitlines()).replace("\\", "\\\\")
    return line.replace("|", "\\|").replace("<", "&lt;")


def markdown_table(head: list[str], lines: list[list[str]]) -> str:
    """A GitHub table; whatever could break out of a cell is escaped."""
    clean = [[plain(c) for c in line] for line in [head, *lines]]
    rule = ["---" if k < 3 else "---:" for k in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [clean[0], rule, *clean[1:]])


def _floor_line(rows: list[ResultRow], model: str) -> str:
    floors = [r for r in rows if r.model == model and r.method == FLOOR and r.value is not None]
    sets = [r for r in floors if find(r.metric).metric.compares == "sets"]
    if not sets:
        return "No floor was measured."
    values = ", ".join(f"{r.metric} {cell_text(r)}" for r in sets)
    return (
        f"Floor (reference against reference with other seeds, same N): {values}. "
        "Candidates share the reference's noise, so they can lie below it."
    )


def markdown(
    rows: list[ResultRow],
    times: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    takes: Sequence[dict[str, Any]] = (),
) -> str:
    """All tables of a run as one Markdown page."""
    parts = []
    for model in models(rows):
        mine = [r for r in rows if r.model == model]
        n, task, prompts = mine[0].n, mine[0].task, mine[0].prompts
        parts += [
            f"## {plain(model)}",
            f"{n} images a row, task {task}, prompts {plain(prompts)};"
            " 95 % intervals by bootstrap over prompts.",
            markdown_table(*headline(rows, model)),
            _floor_line(rows, model),
        ]
        seconds = [t for t in times if t["model"] == model]
        if seconds:
            parts += ["### Time", markdown_table(*time_table(seconds))]
        needs = [t for t in takes if t["model"] == model]
        if needs:
            parts += ["### What each method takes", markdown_table(*takes_table(needs))]
        closer = [p for p in pairs if p["model"] == model]
        if closer:
            parts += [
                "### Which is closer to the reference",
                "Share of prompts on which A is closer than B (ties count half).",
                markdown_table(*pair_table(closer)),
            ]
    return "\n\n".join(parts) + "\n"


def time_table(times: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Milliseconds an image, and how much less than the reference; measured during the run."""
    reference = next((t for t in times if t["role"] == "reference"), None)
    head = ["method", "steps", "NFE", "U-Net ms", "sampler ms", "VAE ms", "U-Net speed-up"]
    lines = []
    for t in times:
        if t["role"] == "floor":
            continue
        gain = "–" if reference is None else f"{reference['unet_seconds'] / t['unet_seconds']:.2f}x"
        name = "reference" if t["role"] == "reference" else t["method"]
        ms = [f"{1000 * t[k]:.2f}" for k in ("unet_seconds", "sample_seconds", "decode_seconds")]
        lines.append([name, str(t["steps"]), f"{t['nfe']:.0f}", *ms, gain])
    return head, lines


def takes_table(takes: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What each method takes beside a model; a dash where it is not known or there is none."""
    head = ["method", "needs training", "negative prompts", "trained on"]
    head += ["parameters", "training images", "training s"]
    lines = [
        [t["method"], t["training"] or "–", _yes(t["negative_prompts"]), t["base"] or "–"]
        + ["–" if t[n] is None else f"{t[n]:,.0f}" for n in ("parameters", "images", "seconds")]
        for t in takes
    ]
    return head, lines


def summary(
    rows: Sequence[ResultRow], times: list[dict[str, Any]], takes: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Everything of every cell in one line: metrics, times of an image, what the method takes.

    Values stand without their intervals, which results.csv has.
    """
    metrics = list(dict.fromkeys(r.metric for r in rows))
    spent = {(t["model"], _timed(t), t["steps"]): t for t in times}
    needs = {(t["model"], t["method"]): t for t in takes}
    lines: dict[tuple[str, str, int], dict[str, ResultRow]] = {}
    for r in rows:
        lines.setdefault((r.model, r.method, r.steps), {})[r.metric] = r
    table = []
    for (model, method, steps), found in lines.items():
        t, need = spent.get((model, method, steps)), needs.get((model, method), {})
        nfe = next((str(r.nfe) for r in found.values() if r.nfe is not None), "–")
        values = [found.get(m) for m in metrics]
        texts = [cell_text(r) if r is None or r.value is None else number(r.value) for r in values]
        unet, whole = ("–", "–") if t is None else (_ms(t, "unet"), _ms(t, "sample", "decode"))
        cost = [need.get(name) for name in ("parameters", "images", "seconds")]
        table.append(
            [model, method, str(steps), nfe, *texts, unet, whole]
            + [need.get("training") or "–", _yes(need.get("negative_prompts"))]
            + ["–" if n is None else f"{n:.0f}" for n in cost]
        )
    head = ["model", "method", "steps", "NFE", *(f"{m} {_arrow(m)}" for m in metrics)]
    head += ["U-Net ms", "sampler and VAE ms", "needs training", "negative prompts"]
    return [*head, "trained parameters", "training images", "training s"], table


def _timed(time: dict[str, Any]) -> str:
    names = {"reference": "reference", "floor": FLOOR}
    return names.get(time["role"], str(time["method"]))


def _ms(time: dict[str, Any], *parts: str) -> str:
    return f"{1000 * sum(time[f'{part}_seconds'] for part in parts):.2f}"


def _arrow(metric: str) -> str:
    return ARROWS[find(metric).metric.better]


def _yes(known: bool | None) -> str:
    return {True: "yes", False: "no", None: "–"}[known]


def pair_table(pairs: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of "A is closer than B"."""
    head = ["metric", "A", "B", "steps", "A closer"]
    lines = [
        [
            p["metric"],
            p["a"],
            p["b"],
            str(p["steps"]),
            f"{p['a_closer']:.3f} [{p['low']:.3f}, {p['high']:.3f}]",
        ]
        for p in pairs
    ]
    return head, lines


def csv_text(rows: list[ResultRow]) -> str:
    """Every result row, full precision."""
    out = io.StringIO()
    names = list(ResultRow.__dataclass_fields__)
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: getattr(r, n) for n in names} for r in rows)
    return out.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: "\\" + c for c in "&%$#_{}"
}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in " ".join(text.splitlines()))
    return escaped.replace("↓", r"$\downarrow$").replace("↑", r"$\uparrow$").replace("–", "--")


def latex(rows: list[ResultRow]) -> str:
    """One booktabs tabular a model."""
    parts = []
    for model in models(rows):
        head, lines = headline(rows, model)
        body = [" & ".join(_latex(c) for c in line) + r" \\" for line in lines]
        parts.append(
            "\n".join(
                [
                    f"% {_latex(model)}",
                    rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                    r"\toprule",
                    " & ".join(_latex(c) for c in head) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def write_tables(run: RunFolder) -> None:
    """Write ``tables/*``: results, times, pairs and takes of a finished run, and all in one.

    results.* hold nothing that varies between equal runs; times do, and stand apart; summary.* have
    both, a line a cell.
    """
    document = run.read_results_document()
    rows = result_rows(document, str(run.results_file))
    times, pairs = document.get("times", []), document.get("pairs", [])
    takes = document.get("takes", [])
    everything = summary(rows, times, takes)
    folder = run.path / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "results.md": markdown(rows, [], pairs, takes),
        "results.csv": csv_text(rows),
        "results.tex": latex(rows),
        "times.md": "\n\n".join(
            f"## {plain(m)}\n\n"
            + markdown_table(*time_table([t for t in times if t["model"] == m]))
            for m in models(rows)
        )
        + "\n",
        "times.csv": _records_csv(times),
        "pairs.csv": _records_csv(pairs),
        "summary.md": markdown_table(*everything) + "\n",
        "summary.csv": _csv([everything[0], *everything[1]]),
        "takes.csv": _records_csv([{k: t[k] for k in t if k != "document"} for t in takes]),
    }
    for name, text in files.items():
        write_atomic(folder / name, text.encode())


def _csv(lines: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _records_csv(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()
