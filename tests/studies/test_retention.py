"""Retention: a ratio of two runs' distances, with an interval that holds what it says."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from result_rows import result_row

from sunbench.errors import UserError
from sunbench.store import ResultRow
from sunbench.studies.retention import (
    Dose,
    Retention,
    curve,
    curves,
    draw,
    page,
    retentions,
)

METRIC = "perceptual[zoo-clip]"


def row(
    model: str = "tuned", method: str = "sun", value: float = 0.2, **changes: object
) -> ResultRow:
    names = {"model": model, "method": method, "metric": METRIC, "prompts": "mine"}
    numbers = {"value": value, "low": 0.9 * value, "high": value / 0.9, "relative": 2 * value}
    return result_row(**{**names, **numbers, "nfe": 4.0, **changes})


def test_retention_is_trained_over_plugged():
    (retention,) = retentions([row(value=0.4)], [row(value=0.2)], METRIC)
    assert retention.ratio == pytest.approx(0.5)
    assert retention.low is not None
    assert retention.high is not None
    # both intervals are a factor of 0.9 wide on either side: together sqrt(2) as wide in the log
    assert np.log(retention.high / 0.5) == pytest.approx(-np.log(0.9) * np.sqrt(2))
    assert np.log(retention.low / 0.5) == pytest.approx(np.log(0.9) * np.sqrt(2))


def test_the_interval_covers():
    """Of two independent estimates with log-normal errors, in 95 of 100 draws."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        plugged, trained = np.exp(rng.normal(np.log([0.4, 0.3]), 0.05))
        wide = np.exp(1.96 * 0.05)
        rows = [row(value=v, low=float(v / wide), high=float(v * wide)) for v in (plugged, trained)]
        (retention,) = retentions(rows[:1], rows[1:], METRIC)
        assert retention.low is not None
        assert retention.high is not None
        inside += retention.low <= 0.75 <= retention.high
    assert 930 <= inside <= 970


def test_without_a_student_trained_there_there_is_no_ratio():
    (retention,) = retentions([row()], [row(model="another")], METRIC)
    assert (retention.ratio, retention.trained) == (None, None)
    assert "| – |" in page([retention], METRIC)


def test_rows_are_sorted_by_dose_and_drawn():
    rows = [row(model=f"m{k}", value=0.1 * k) for k in (3, 1, 2)]
    doses = {"m1": Dose("m3", 0.25), "m2": Dose("m3", 0.5), "m3": Dose("m3", 1.0)}
    lines = retentions(rows, [], METRIC, doses)
    assert [r.dose and r.dose.share for r in lines] == [0.25, 0.5, 1.0]
    image = curve(lines, METRIC)
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert curve(retentions(rows, [], METRIC), METRIC) is None


#: Two fine-tunes at two shares of their training each, one at its end alone.
DOSES = {
    "early-3d": Dose("emoji-3d", 0.2),
    "emoji-3d": Dose("emoji-3d", 1.0),
    "early-line": Dose("emoji-line", 0.3),
    "emoji-line": Dose("emoji-line", 1.0),
    "emoji-flat": Dose("emoji-flat", 1.0),
}


def of_two_fine_tunes() -> list[Retention]:
    names = ("sun", "agd", "boostdiff-lora", "guided-distill", "ddim-unguided", "pcm-lora")
    rows = [
        row(model=m, method=name, value=0.1 + 0.03 * i + 0.1 * k)
        for i, m in enumerate(DOSES)
        for k, name in enumerate(names)
    ]
    return retentions(rows, [], METRIC, DOSES)


def test_a_line_joins_checkpoints_of_one_fine_tune_alone():
    curve_points = curves(of_two_fine_tunes())
    assert {tune for tune, _, _ in curve_points} == {"emoji-3d", "emoji-line"}
    assert len(curve_points) == 2 * 6
    assert [share for share, _ in curve_points["emoji-3d", "sun", 4]] == [0.2, 1.0]
    assert [v for _, v in curve_points["emoji-line", "sun", 4]] == pytest.approx([0.16, 0.19])


def test_the_lines_of_all_fine_tunes_begin_at_the_base():
    doses = {**DOSES, "emoji": Dose("emoji", 0.0)}
    rows = [row(model=m, value=0.1 + 0.1 * i) for i, m in enumerate(doses)]
    lines = retentions(rows, [], METRIC, doses)
    base = pytest.approx((0.0, 0.6))
    curve_points = curves(lines)
    assert {tune for tune, _, _ in curve_points} == {"emoji-3d", "emoji-line", "emoji-flat"}
    assert all(points[0] == base for points in curve_points.values())
    assert [share for share, _ in curve_points["emoji-3d", "sun", 4]] == [0.0, 0.2, 1.0]
    assert "| emoji | base |" in page(lines, METRIC)


def test_the_page_says_which_fine_tune_a_checkpoint_is_of():
    text = page(of_two_fine_tunes(), METRIC)
    assert "| early-3d | 20 % of emoji-3d |" in text
    assert "| emoji-3d | 100 % |" in text


def test_the_figure_has_a_panel_per_fine_tune_and_nothing_overlaps():
    figure = draw(of_two_fine_tunes(), METRIC)
    assert figure is not None
    panels, (legend,) = figure.axes, figure.legends
    assert [axes.get_title() for axes in panels] == ["emoji-3d", "emoji-line"]
    assert [len(axes.lines) for axes in panels] == [6, 6]
    assert len(legend.get_texts()) == 6
    for axes in panels:
        looks = {line.get_label(): line.get_color() for line in axes.lines}
        assert looks == {t.get_label(): t.get_color() for t in panels[0].lines}
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [part.get_tightbbox(canvas.get_renderer()) for part in (*panels, legend)]
    assert all(box is not None and figure.bbox.padded(1).containsx(box.x1) for box in boxes)
    assert Bbox.intersection(boxes[0], boxes[1]) is None
    assert all(Bbox.intersection(box, boxes[2]) is None for box in boxes[:2])


def test_the_page_has_values_seed_units_and_names_as_text():
    lines = retentions([row(model="<b>m|", value=0.4)], [row(model="<b>m|", value=0.2)], METRIC)
    text = page(lines, METRIC, ["sunbench run --models a"])
    assert "0.50 [0.43, 0.58] | 0.80 | 0.40 |" in text
    assert "<b>" not in text
    assert "sunbench run --models a" in text


@pytest.mark.parametrize(
    ("plugged", "trained", "metric", "doses", "words"),
    [
        ([row()], [row()], "ssim", {}, "expected a distance"),
        ([row()], [row(n=50)], METRIC, {}, "given 100 images of mine plugged in and 50 of mine"),
        ([row()], [row(prompts="yours")], METRIC, {}, "of yours trained there"),
        (
            [row()],
            [row()],
            METRIC,
            {"other": Dose("other", 0.5)},
            "given a dose of other, expected one of tuned",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    plugged: list[ResultRow],
    trained: list[ResultRow],
    metric: str,
    doses: dict[str, Dose],
    words: str,
):
    with pytest.raises(UserError) as caught:
        retentions(plugged, trained, metric, doses)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
