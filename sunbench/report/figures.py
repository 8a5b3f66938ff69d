"""Figures of a run for print: quality against time and a sheet of pictures, as PDF and PNG."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from sunbench.metrics.registry import find
from sunbench.report.choice import Point, complete, distances, front, logarithmic, points
from sunbench.report.html.gallery import cells, sample
from sunbench.report.shards import CellFiles
from sunbench.report.tables import ARROWS, floor_value, models
from sunbench.store import ResultRow, RunFolder, write_atomic
from sunbench.store.runs import result_rows

log = logging.getLogger(__name__)

COLOURS = ("#0066a8", "#c24a00", "#007a58", "#a8387e", "#8a6500", "#5b4bc4", "#4d5a66", "#b02a37")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
ROWS = 6  # prompts of a sheet
WIDTH = 3.4  # inches: one column of a paper
STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1,
    "pdf.fonttype": 42,
    "svg.hashsalt": "sunbench",
    "text.parse_math": False,  # names are data
}


def write_figures(run: RunFolder) -> list[Path]:
    """Write ``figures/*.{pdf,png}`` of a finished run and return their paths.

    A chart a model and distance; a sheet of pictures a model whose pictures were kept.
    """
    run.require_finished()
    results, asked = run.read_results_document(), run.read_run()
    rows = result_rows(results, str(run.results_file))
    folder = run.path / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    with rc_context(STYLE):
        for model in models(rows):
            for metric in distances([r for r in rows if r.model == model]):
                chart = pareto(rows, results.get("times", []), model, metric)
                out += _save(chart, folder, f"time-{model}-{metric}")
        found = {e["card"]["name"]: cells(run.path, e["cells"]) for e in asked["models"]}
        for name, some in found.items():
            out += _save(sheet(some), folder, f"pictures-{name}")
    _tell_absent([c for some in found.values() for c in some if c.role == "reference"])
    return out


def _tell_absent(references: Sequence[CellFiles]) -> None:
    absent = [c for c in references if not c.folder.is_dir()]
    if absent:
        log.warning(
            "%d of %d references are not in %s, so sheets lack them; name the run's cache in"
            " SUNBENCH_CACHE",
            len(absent),
            len(references),
            absent[0].folder.parent,
        )


def _save(figure: Figure | None, folder: Path, name: str) -> list[Path]:
    if figure is None:
        return []
    stem = re.sub(r"[^A-Za-z0-9.+]+", "-", name).strip("-")
    out = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        data = io.BytesIO()
        figure.savefig(data, format=suffix, dpi=300, metadata=metadata)
        path = folder / f"{stem}.{suffix}"
        write_atomic(path, data.getvalue())
        out.append(path)
    return out


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


# ------------------------------------------------------------------------------ charts


def pareto(
    rows: Sequence[ResultRow], times: Sequence[dict[str, Any]], model: str, metric: str
) -> Figure | None:
    """Distance against U-Net milliseconds of one model, with intervals; None without points."""
    given = points(rows, times, model, metric)
    whole = complete(given)
    if not whole:
        return None
    figure = _figure(WIDTH, 3.0)
    axes = figure.add_subplot()
    for i, method in enumerate(dict.fromkeys(p.row.method for p in given)):
        own = sorted((p for p in whole if p.row.method == method), key=lambda p: p.row.steps)
        if own:
            _curve(axes, own, COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)])
    best = front(whole)
    x, y = [p.ms for p in best], np.array([p.row.value for p in best], dtype=float)
    axes.step(x, y, where="post", color="0.35", ls="--", lw=0.8, zorder=1, label="front")
    floor = floor_value(rows, model, metric)
    if floor is not None:
        axes.axhline(floor, color="0.5", ls=":", lw=0.8, label="floor")
    _time_axis(axes, whole)
    if logarithmic(whole, floor):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("U-Net ms an image")
    axes.set_ylabel(f"{metric} {ARROWS[find(metric).metric.better]}")
    axes.set_title(f"{model}, {whole[0].row.n} images", fontsize=8)
    axes.grid(color="0.9", lw=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _time_axis(axes: Axes, whole: list[Point]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    narrow = max(p.ms for p in whole) < 10 * min(p.ms for p in whole)
    if narrow:
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_minor_formatter(ScalarFormatter() if narrow else NullFormatter())
    axes.tick_params(axis="x", which="minor", labelsize=6)


def _curve(axes: Axes, own: list[Point], colour: str, mark: str) -> None:
    x = [p.ms for p in own]
    y = np.array([p.row.value for p in own], dtype=float)
    low = np.array([np.nan if p.row.low is None else p.row.low for p in own])
    high = np.array([np.nan if p.row.high is None else p.row.high for p in own])
    error = np.maximum(np.stack([y - low, high - y]), 0)
    name = own[0].row.method
    axes.errorbar(x, y, error, color=colour, marker=mark, ms=4, capsize=2, lw=0.9, label=name)
    for p, at in zip(own, y, strict=True):
        axes.annotate(
            str(p.row.steps), (p.ms, at), xytext=(4, 4), textcoords="offset points", fontsize=6
        )


# ------------------------------------------------------------------------------ pictures


def sheet(found: Sequence[CellFiles]) -> Figure | None:
    """A few prompts down, reference and methods across; None when no picture was kept."""
    ordered = sorted(found, key=lambda c: c.role != "reference")
    if not ordered:
        return None
    chosen = sample(ordered[0].images, ordered[0].seeds)
    wanted = [
        chosen[i] for i in np.linspace(0, len(chosen) - 1, min(ROWS, len(chosen))).astype(int)
    ]
    columns = [({r.index: r for r in c.rows(wanted)}, c.name) for c in ordered]
    held = [
        (rows, name) for rows, name in columns if any(r.image is not None for r in rows.values())
    ]
    if not held:
        return None
    figure = _figure(0.3 + 0.9 * len(held), 0.35 + 1.1 * len(wanted))
    grid = figure.subplots(len(wanted), len(held), squeeze=False)
    for line, index in zip(grid, wanted, strict=True):
        for axes, (rows, name) in zip(line, held, strict=True):
            row = rows.get(index)
            _picture(axes, None if row is None else row.image)
            if axes in grid[0]:
                axes.set_title(name.replace(" at ", "\n"), fontsize=7)
        words = next((rows[index].prompt for rows, _ in held if index in rows), "")
        line[0].annotate(
            _short(words),
            (0, 0),
            (0, -3),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            fontsize=5,
        ).set_in_layout(False)  # it is wider than its picture
    return figure


def _short(words: str) -> str:
    plain = " ".join(words.split())
    return plain if len(plain) <= 60 else plain[:59] + "…"


def _picture(axes: Axes, image: NDArray[np.uint8] | None) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if image is not None:
        axes.imshow(image, interpolation="nearest")
