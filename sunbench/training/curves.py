"""The losses of a training over its steps, as numbers and as a plot."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sunbench.store import write_atomic

#: Columns of loss.csv that are no losses.
OTHERS = ("step", "rate", "images_per_s", "replaced")


def read_curves(path: Path) -> tuple[list[int], dict[str, list[float]]]:
    """Steps and the losses at them, of a loss.csv."""
    rows = pd.read_csv(path)
    losses = rows.drop(columns=list(OTHERS), errors="ignore").astype(float)
    return rows["step"].tolist(), losses.to_dict("list")


def draw_curves(log_file: Path, path: Path, label: str = "mean squared error of the noise") -> None:
    """Plot every loss of a loss.csv over its steps, on a log scale where all are positive."""
    steps, curves = read_curves(log_file)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, values in curves.items():
        axes.plot(steps, values, label=name, marker="." if len(steps) == 1 else None)
    if all(value > 0 for values in curves.values() for value in values):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    write_atomic(path, data.getvalue())
