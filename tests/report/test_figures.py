"""Figures for print: their files, their repeatability, and names that try to be something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sunbench.report.choice import WIDE, logarithmic, points
from sunbench.report.data import read_run
from sunbench.report.figures import pareto, write_figures
from sunbench.store import RunFolder

Finished = Callable[..., RunFolder]


def test_a_chart_a_distance_and_a_sheet_a_model(finished: Finished):
    run = finished()
    paths = write_figures(run)
    assert {p.stem for p in paths} == {"images-tiny", "images-other-i-model-i"} | {
        f"latency-{model}-{metric}"
        for model in ("tiny", "other-i-model-i")
        for metric in ("perceptual-zoo-clip", "ssim", "fd-zoo-clip")
    }
    assert {p.parent for p in paths} == {run.path / "figures"}
    for p in paths:
        head = p.read_bytes()[:5]
        assert head == (b"%PDF-" if p.suffix == ".pdf" else b"\x89PNG\r")
    with Image.open(run.path / "figures" / "latency-tiny-ssim.png") as image:
        assert image.width > 900
        assert np.asarray(image.convert("L")).min() < 60


def test_the_same_run_gives_the_same_figures_in_full_color(finished: Finished):
    run = finished(names=("tiny",))
    first = {p.name: p.read_bytes() for p in write_figures(run)}
    assert {p.name: p.read_bytes() for p in write_figures(run)} == first
    for path in (run.path / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert image.mode in ("RGB", "RGBA")


def test_models_of_one_file_name_do_not_overwrite_each_other(finished: Finished):
    """Each has its own charts and its own sheet, and no other file is written twice."""
    names = ("a b", "a-b")
    paths = write_figures(finished(names=names))
    assert len({str(p).casefold() for p in paths}) == len(paths)
    assert len([p for p in paths if p.stem.startswith("images-")]) == 2 * len(names)
    assert {p.parent.name for p in paths} == {"figures"}


def test_without_pictures_there_are_charts_only(finished: Finished, tmp_path: Path):
    run = finished(keep=False, names=("tiny",))
    shutil.rmtree(tmp_path / "cache" / "reference_sets")
    assert not [p for p in write_figures(run) if p.stem.startswith("images")]


def test_a_chart_has_a_curve_a_method_in_the_order_of_the_run(finished: Finished):
    data = read_run(finished())
    rows = data.rows
    chart = pareto(rows, data.times, "tiny", "perceptual[zoo-clip]")
    assert chart is not None
    _, names = chart.axes[0].get_legend_handles_labels()
    assert [n for n in names if n in ("ddim", "dpm++")] == ["ddim", "dpm++"]
    assert pareto(rows, [], "tiny", "perceptual[zoo-clip]") is None


def test_the_axis_of_distance_is_logarithmic_where_one_value_is_far_off(finished: Finished):
    data, metric = read_run(finished()), "perceptual[zoo-clip]"
    rows, times = data.rows, data.times

    def scale(far: float) -> str:
        first = next(r for r in rows if (r.model, r.metric, r.method) == ("tiny", metric, "ddim"))
        moved = [replace(r, value=far, low=None, high=None) if r is first else r for r in rows]
        chart = pareto(moved, times, "tiny", metric)
        assert chart is not None
        return chart.axes[0].get_yscale()

    candidates = points(rows, times, "tiny", metric)
    values = [v for p in candidates for v in (p.row.value, p.row.low, p.row.high) if v is not None]
    assert not logarithmic(candidates, None)
    assert scale(max(values)) == "linear"
    assert scale(2 * WIDE * max(values)) == "log"
    assert scale(-1.0) == "linear"
    assert logarithmic(candidates, 2 * WIDE * max(values))  # a floor is on the chart as well
    assert not logarithmic([], 1.0)
