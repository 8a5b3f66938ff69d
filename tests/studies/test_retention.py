"""Retention: a ratio of two runs' distances, with an interval that holds what it says."""

from __future__ import annotations

import numpy as np
import pytest
from result_rows import result_row

from sunbench.errors import UserError
from sunbench.store import ResultRow
from sunbench.studies.retention import curve, page, retentions

METRIC = "perceptual[zoo-clip]"


def row(
    model: str = "tuned", method: str = "sun", value: float = 0.2, **changes: object
) -> ResultRow:
    names = {"model": model, "method": method, "metric": METRIC, "prompts": "mine"}
    numbers = {"value": value, "low": 0.9 * value, "high": value / 0.9, "relative": 2 * value}
    return result_row(**{**names, **numbers, "nfe": 4.0, **changes})


def test_retention_is_trained_over_plugged():
    (found,) = retentions([row(value=0.4)], [row(value=0.2)], METRIC)
    assert found.ratio == pytest.approx(0.5)
    assert found.low is not None
    assert found.high is not None
    # both intervals are a factor of 0.9 wide on either side: together sqrt(2) as wide in the log
    assert np.log(found.high / 0.5) == pytest.approx(-np.log(0.9) * np.sqrt(2))
    assert np.log(found.low / 0.5) == pytest.approx(np.log(0.9) * np.sqrt(2))


def test_the_interval_covers():
    """Of two independent estimates with log-normal errors, in 95 of 100 draws."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        plugged, trained = np.exp(rng.normal(np.log([0.4, 0.3]), 0.05))
        wide = np.exp(1.96 * 0.05)
        rows = [row(value=v, low=float(v / wide), high=float(v * wide)) for v in (plugged, trained)]
        (found,) = retentions(rows[:1], rows[1:], METRIC)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.75 <= found.high
    assert 930 <= inside <= 970


def test_without_a_student_trained_there_there_is_no_ratio():
    (found,) = retentions([row()], [row(model="another")], METRIC)
    assert (found.ratio, found.trained) == (None, None)
    assert "| – |" in page([found], METRIC)


def test_rows_are_sorted_by_dose_and_drawn():
    rows = [row(model=f"m{k}", value=0.1 * k) for k in (3, 1, 2)]
    doses = {"m1": 0.25, "m2": 0.5, "m3": 1.0}
    found = retentions(rows, [], METRIC, doses)
    assert [r.dose for r in found] == [0.25, 0.5, 1.0]
    image = curve(found, METRIC)
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert curve(retentions(rows, [], METRIC), METRIC) is None


def test_the_page_has_values_seed_units_and_names_as_text():
    found = retentions([row(model="<b>m|", value=0.4)], [row(model="<b>m|", value=0.2)], METRIC)
    text = page(found, METRIC, ["sunbench run --models a"])
    assert "0.50 [0.43, 0.58] | 0.80 | 0.40 |" in text
    assert "<b>" not in text
    assert "sunbench run --models a" in text


@pytest.mark.parametrize(
    ("plugged", "trained", "metric", "doses", "words"),
    [
        ([row()], [row()], "ssim", {}, "expected a distance"),
        ([row()], [row(n=50)], METRIC, {}, "given 100 images of mine plugged in and 50 of mine"),
        ([row()], [row(prompts="yours")], METRIC, {}, "of yours trained there"),
        ([row()], [row()], METRIC, {"other": 0.5}, "given a dose of other, expected one of tuned"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    plugged: list[ResultRow],
    trained: list[ResultRow],
    metric: str,
    doses: dict[str, float],
    words: str,
):
    with pytest.raises(UserError) as caught:
        retentions(plugged, trained, metric, doses)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
