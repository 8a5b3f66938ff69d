"""Spreads, speed-ups and flags of rows, from turns of known seconds."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from sunbench.errors import UserError
from sunbench.models import LoadedModel, ModelCard
from sunbench.report.data import CellTime, speed_up
from sunbench.sampling import SampleSettings
from sunbench.store.timings import TimingRow, ratio, spread
from sunbench.timing.rounds import BatchTurns, TimedMethod, Turn
from sunbench.timing.rows import MachineState, derived_again, timing_rows

IDLE = MachineState(0.1, 0.9, 0.05, 2, {}, {})


def rows_of(
    pipeline: Any,
    reference: list[float],
    other: list[float],
    nfe: float,
    state: MachineState,
    cheaper: bool = False,
) -> list[Any]:
    """Rows of a reference of 10 NFE and another method, in whose turns the U-Net is all."""

    def method(name: str, role: str) -> TimedMethod:
        settings, smaller = SampleSettings(5, 3.0), cheaper and role == "candidate"
        return TimedMethod(name, role, settings, True, lambda: nullcontext(None), smaller)

    def turns(seconds: list[float], count: float) -> list[Turn]:
        return [Turn(0.0, s, s, 0.0, count) for s in seconds]

    loaded = LoadedModel(pipeline, ModelCard("tiny", "folder", "tiny"), {}, "own")
    two = [method("dpm++", "reference"), method("ddim", "candidate")]
    batch = BatchTurns(1, 1, two, [turns(reference, 10.0), turns(other, nfe)], [None, None])
    return timing_rows(loaded, [batch], 16, "full", state)


def test_median_quartiles_and_ratios_within_rounds():
    assert spread([3, 1, 2, 5, 4]) == (3, 2, 4)
    assert ratio([2, 20, 2], [1, 10, 1]) == (2, 2, 2)


def test_a_slow_round_changes_no_speed_up(pipeline):
    _, row = rows_of(pipeline, [2.0, 20.0, 2.0], [1.0, 10.0, 1.0], 5.0, IDLE)
    assert row.speed_up == row.unet_speed_up == (2, 2, 2)
    assert row.nfe_ratio == 2


def test_honest_times_on_an_idle_machine_have_no_flag(pipeline):
    for row in rows_of(pipeline, [2.0, 2.02, 1.98], [1.0, 1.0, 1.01], 5.0, IDLE):
        assert row.flags == ()


def test_a_speed_up_above_the_ratio_of_nfe_is_flagged(pipeline):
    reference, row = rows_of(pipeline, [3.0, 3.0, 3.0], [1.0, 1.0, 1.0], 5.0, IDLE)
    assert reference.flags == ()
    assert row.flags == (
        "3.00x end to end is above the ratio of NFE, 2.00",
        "3.00x in the U-Net is above the ratio of NFE, 2.00",
    )


def test_a_smaller_network_may_gain_more_than_the_ratio_of_nfe(pipeline):
    rows = rows_of(pipeline, [3.0, 3.0, 3.0], [1.0, 1.0, 1.0], 5.0, IDLE, cheaper=True)
    for row in (rows[1], derived_again(rows)[1]):
        assert row.flags == ()
        assert row.speed_up == (3, 3, 3)
        assert speed_up(CellTime.of(row), CellTime.of(rows[0])).flag == ""


def test_a_busy_machine_is_flagged_in_every_row(pipeline):
    busy = MachineState(0.1, 2.9, 0.9, 2, {}, {})
    rows = rows_of(pipeline, [2.0] * 3, [1.0] * 3, 5.0, busy)
    assert {r.flags for r in rows} == {("busy machine: other processes used 0.9 of 2 CPUs",)}
    gpu = MachineState(0.1, 2.9, 0.0, 2, {"utilization.gpu": "37 %"}, {})
    rows = rows_of(pipeline, [2.0] * 3, [1.0] * 3, 5.0, gpu)
    assert {r.flags for r in rows} == {("busy machine: the GPU was in use (37 %) before the pass",)}


@pytest.mark.parametrize(
    ("seconds", "flag"),
    [
        ([1.0, 2.0, 1.0, 2.0], "unsteady: the quartiles of its seconds are far apart"),
        ([1.0], "1 timed round, too few for quartiles"),
        ([1.0, 1.0], "2 timed rounds, too few for quartiles"),
    ],
)
def test_unsteady_and_few_rounds_are_flagged(pipeline, seconds, flag):
    reference, _ = rows_of(pipeline, seconds, [s / 2 for s in seconds], 5.0, IDLE)
    assert reference.flags == (flag,)


# ------------------------------------------------------------------------------ document


@pytest.fixture
def record(pipeline: Any) -> dict[str, Any]:
    row = rows_of(pipeline, [2.0] * 3, [1.0] * 3, 5.0, IDLE)[1]
    return json.loads(json.dumps(row.to_json()))


def test_a_row_survives_json(pipeline, record):
    row = TimingRow.from_json(record, "x")
    assert row == rows_of(pipeline, [2.0] * 3, [1.0] * 3, 5.0, IDLE)[1]
    assert json.loads(json.dumps(row.to_json())) == record


DAMAGE: list[tuple[dict[str, Any], str]] = [
    ({"batch": "1"}, "x, batch: given '1', expected int"),
    ({"batch": True}, "x, batch: given True, expected int"),
    ({"nfe": None}, "x, nfe: given None, expected float"),
    ({"nfe": 10**400}, "expected a finite number"),
    ({"role": "floor"}, "x, role: given 'floor', expected one of 'reference', 'candidate'"),
    ({"flags": "busy"}, "x, flags: given 'busy', expected a list"),
    ({"flags": [1]}, r"x, flags\[0\]: given 1, expected text"),
    ({"speed_up": [1.0, 2.0]}, "expected 3 values: median, low, high"),
    ({"machine": []}, "x, machine: given .*, expected an object"),
    ({"unet_seconds": [1.0]}, "expected one each per round"),
    ({"text_seconds": [0.0], "sampler_seconds": [0.0], "unet_seconds": [0.0],
      "decoder_seconds": [0.0]}, "seconds, batch or NFE of 0 or less"),
    ({"more": 1}, "x: given unknown more; expected model, method"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), DAMAGE, ids=[str(c) for c, _ in DAMAGE])
def test_a_damaged_row_is_one_line(record, change, line):
    with pytest.raises(UserError, match=line):
        TimingRow.from_json(record | change, "x")


def test_a_row_without_a_field_is_one_line(record):
    del record["steps"]
    with pytest.raises(UserError, match="x: given no steps; expected model"):
        TimingRow.from_json(record, "x")
