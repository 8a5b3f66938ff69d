"""Figures of a run for print: distance against latency and a sheet of images, as PDF and PNG."""

from __future__ import annotations

import io
import logging
import textwrap
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

from sunbench.report.choice import Point, complete, distance_metrics, front, logarithmic, points
from sunbench.report.data import CellTime, floor_value, model_names, read_run, reference_time
from sunbench.report.html.gallery import sample
from sunbench.report.texts import with_arrow
from sunbench.store import CellReader, ResultRow, RunFolder, readers, write_atomic
from sunbench.store.files import make_folder
from sunbench.store.names import file_stems

log = logging.getLogger(__name__)

COLORS = ("#0066a8", "#c24a00", "#007a58", "#a8387e", "#8a6500", "#5b4bc4", "#4d5a66", "#b02a37")
#: One more than the colors, so that no two of 72 methods look the same.
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
PROMPTS = 6  # columns of a sheet
WIDTH = 3.4  # inches: one column of a paper
SHEET_WIDTH = 7.2  # inches: two columns of a paper, or a README
LABEL_WIDTH = 1.15  # inches of it for the methods' names
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

    A chart per model and distance; a sheet of images per model whose images were kept.
    """
    data, asked = read_run(run), run.read_run()
    folder = run.path / "figures"
    make_folder(folder)
    charts = {
        f"latency {model} {metric}": (model, metric)
        for model in model_names(data.rows)
        for metric in distance_metrics([r for r in data.rows if r.model == model])
    }
    stored = {f"images {m.name}": readers(run.path, m) for m in asked.models}
    stems = file_stems([*charts, *stored])
    out = []
    with rc_context(STYLE):
        for name, (model, metric) in charts.items():
            chart = pareto(data.rows, data.times, model, metric)
            out += _save(chart, folder / stems[name])
        for name, some in stored.items():
            out += _save(sample_sheet(some), folder / stems[name])
    _warn_absent([c for some in stored.values() for c in some if c.role == "reference"])
    return out


def _warn_absent(references: Sequence[CellReader]) -> None:
    absent = [c for c in references if not c.folder.is_dir()]
    if absent:
        log.warning(
            "%d of %d references are not in %s, so sheets lack them; name the run's cache in"
            " SUNBENCH_CACHE",
            len(absent),
            len(references),
            absent[0].folder.parent,
        )


def _save(figure: Figure | None, stem: Path) -> list[Path]:
    if figure is None:
        return []
    out = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        data = io.BytesIO()
        figure.savefig(data, format=suffix, dpi=300, metadata=metadata)
        path = stem.with_name(f"{stem.name}.{suffix}")
        write_atomic(path, data.getvalue())
        out.append(path)
    return out


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


# ------------------------------------------------------------------------------ charts


def pareto(
    rows: Sequence[ResultRow], times: Sequence[CellTime], model: str, metric: str
) -> Figure | None:
    """Distance against latency per image of one model, with intervals; None without points."""
    candidates = points(rows, times, model, metric)
    whole = complete(candidates)
    if not whole:
        return None
    figure = _figure(WIDTH, 3.2)
    axes = figure.add_subplot()
    for i, method in enumerate(dict.fromkeys(p.row.method for p in candidates)):
        own = sorted((p for p in whole if p.row.method == method), key=lambda p: p.row.steps)
        if own:
            _curve(axes, own, COLORS[i % len(COLORS)], MARKS[i % len(MARKS)])
    best = front(whole)
    x, y = [p.ms for p in best], np.array([p.row.value for p in best], dtype=float)
    axes.step(x, y, where="post", color="0.35", ls="--", lw=0.8, zorder=1, label="front")
    reference, floor = reference_time(times, model), floor_value(rows, model, metric)
    if reference is not None:
        axes.axvline(reference.latency_ms, color="0.2", ls="-.", lw=0.8, label="reference")
    if floor is not None:
        axes.axhline(floor, color="0.5", ls=":", lw=0.8, label="floor")
    _time_axis(axes, [p.ms for p in whole] + ([reference.latency_ms] if reference else []))
    if logarithmic(whole, floor):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("latency per image, ms")
    axes.set_ylabel(with_arrow(metric))
    axes.set_title(f"{model}, {whole[0].row.n} images", fontsize=8)
    axes.grid(color="0.9", lw=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3)
    _step_labels(figure, axes, whole)
    return figure


def _time_axis(axes: Axes, ms: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    narrow = max(ms) < 10 * min(ms)
    if narrow:
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_minor_formatter(ScalarFormatter() if narrow else NullFormatter())
    axes.tick_params(axis="x", which="minor", labelsize=6)


def _curve(axes: Axes, own: list[Point], color: str, mark: str) -> None:
    x = [p.ms for p in own]
    y = np.array([p.row.value for p in own], dtype=float)
    low = np.array([np.nan if p.row.low is None else p.row.low for p in own])
    high = np.array([np.nan if p.row.high is None else p.row.high for p in own])
    error = np.maximum(np.stack([y - low, high - y]), 0)
    name = own[0].row.method
    axes.errorbar(x, y, error, color=color, marker=mark, ms=4, capsize=2, lw=0.9, label=name)


#: Where a mark's number of steps may stand, in points from the mark.
_PLACES = ((5, 4), (-9, 4), (5, -10), (-9, -10), (-2, 9), (-2, -15), (11, -3), (-15, -3))


def _step_labels(figure: Figure, axes: Axes, whole: Sequence[Point]) -> None:
    """The number of steps at each mark, at the first place that nothing else has taken."""
    figure.draw_without_rendering()  # so that marks have places
    marks = [axes.transData.transform((p.ms, p.value)) for p in whole]
    scale = figure.dpi / 72
    taken = list(marks)
    for p, mark in zip(whole, marks, strict=True):
        spots = [mark + scale * np.add(place, 2) for place in _PLACES]
        free = [_clearance(s, taken, mark) for s in spots]
        k = next((i for i, gap in enumerate(free) if gap > 7 * scale), int(np.argmax(free)))
        taken.append(spots[k])
        axes.annotate(
            str(p.row.steps),
            (p.ms, p.value),
            xytext=_PLACES[k],
            textcoords="offset points",
            fontsize=6,
        )


def _clearance(spot: NDArray[Any], taken: Sequence[NDArray[Any]], own: NDArray[Any]) -> float:
    return min((float(np.hypot(*(spot - t))) for t in taken if t is not own), default=np.inf)


# ------------------------------------------------------------------------------ images


def sample_sheet(stored: Sequence[CellReader]) -> Figure | None:
    """Cells down, a few prompts across; None when no image was kept."""
    if not stored:
        return None
    chosen = sample(stored[0].images, stored[0].seeds)
    wanted = [
        chosen[i] for i in np.linspace(0, len(chosen) - 1, min(PROMPTS, len(chosen))).astype(int)
    ]
    lines = [({r.index: r for r in c.some(wanted)}, c.name) for c in stored]
    held = [(rows, name) for rows, name in lines if any(r.image is not None for r in rows.values())]
    if not held:
        return None
    side = (SHEET_WIDTH - LABEL_WIDTH) / len(wanted)
    figure = _figure(SHEET_WIDTH, 0.75 + side * len(held))
    grid = figure.subplots(len(held), len(wanted), squeeze=False)
    for line, (rows, name) in zip(grid, held, strict=True):
        for axes, index in zip(line, wanted, strict=True):
            row = rows.get(index)
            _show(axes, None if row is None else row.image)
        words = textwrap.fill(name.replace(" at ", ", "), 16)
        line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)
    for axes, index in zip(grid[0], wanted, strict=True):
        words = next((rows[index].prompt for rows, _ in held if index in rows), "")
        axes.set_title(_caption(words, round(side * 18)), fontsize=6.5)
    return figure


def _caption(words: str, width: int) -> str:
    lines = textwrap.wrap(" ".join(words.split()), width)
    return "\n".join(lines if len(lines) <= 4 else [*lines[:3], lines[3][: width - 1] + "…"])


def _show(axes: Axes, image: NDArray[np.uint8] | None) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if image is not None:
        axes.imshow(image, interpolation="nearest")
