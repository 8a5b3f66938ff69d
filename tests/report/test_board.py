"""The board: rows in their budgets, nearest first, what was not run with its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from result_rows import result_row

from sunbench.errors import UserError
from sunbench.report.board import board, command
from sunbench.report.data import CellTime, RunData
from sunbench.store import PairRow, budget_of

METRIC = "perceptual[zoo-clip]"
ROW = result_row(metric=METRIC, low=0.3, high=0.5, nfe=8.0, relative=0.5)
ROWS = [
    ROW,
    replace(ROW, method="sun", steps=8, value=0.1, low=0.05, high=0.2),
    replace(ROW, method="adaptive-guidance", nfe=7.25, value=0.3, low=0.2, high=0.4),
    replace(ROW, method="ddim", steps=8, nfe=16.0, value=0.2, low=0.1, high=0.3),
    replace(ROW, method="ddim", steps=40, nfe=80.0, value=0.01, low=0.01, high=0.01),
    replace(
        ROW,
        method="lcm",
        nfe=None,
        value=None,
        low=None,
        high=None,
        relative=None,
        reason="no weights <x>",
    ),
]


def test_budgets():
    assert [budget_of(n, (8, 16)) for n in (1, 7.25, 8, 8.5, 16, 17)] == [8, 8, 8, 16, 16, None]


def test_rows_stand_in_their_budget_nearest_first():
    text = board(RunData(ROWS), (16, 8))
    parts = text.split("### ")
    assert [p.splitlines()[0] for p in parts[1:]] == [
        "Up to 8 NFE",
        "Up to 16 NFE",
        "Above all budgets",
        "Not run",
    ]
    names = [line.split("`")[1] for line in parts[1].splitlines() if line.startswith("| `")]
    assert names == ["sun", "adaptive-guidance", "ddim"]
    assert "\n100 images per row.\n" in parts[0]
    assert "| 7.25 |" in parts[1]
    assert "- `lcm` at 4 steps: no weights" in parts[4]
    assert "<x>" not in text


def test_what_was_not_run_has_one_line_per_reason():
    missing = [
        replace(ROWS[-1], steps=k, reason=why)
        for k, why in ((8, "lcm: no weights"), (4, "lcm: no weights"), (2, "3 steps or more"))
    ]
    lines = board(RunData([ROW, *missing]), (8,)).split("### Not run")[1].strip().splitlines()
    assert lines == ["- `lcm` at 2 steps: 3 steps or more", "- `lcm` at 4, 8 steps: no weights"]


def test_each_row_has_its_command():
    line = 'sunbench run --models tiny --methods "ddim" --steps 4 --images 100'
    assert command(ROW) == line
    assert line in board(RunData([ROW]), (8,))


def test_differences_within_a_budget_are_paired():
    """Of the nearest row, whichever way the run names the two; what is not compared has a dash."""
    sun, adaptive, ddim = ROWS[1], ROWS[2], ROWS[0]

    def pair(a: str, b: str, steps_b: int, value: float, p_adjusted: float) -> PairRow:
        place = ("tiny", 4, METRIC, a, b, 0.2, 0.1, 0.3, 100)
        ends = (value, value - 0.1, value + 0.1)
        return PairRow(*place, *ends, p_adjusted, steps_b=steps_b, nfe=8)

    pairs = (
        pair("ddim", "sun", 8, 0.3, 0.001),
        pair("adaptive-guidance", "sun", 8, 0.05, 0.4),
    )
    text = board(RunData([sun, adaptive, ddim], win_rates=pairs), (8,))
    cells = [line.split("|")[6].strip() for line in text.splitlines() if line.startswith("| `")]
    assert cells == ["–", "+0.05 [-0.05, +0.15] ≈", "+0.3 [+0.2, +0.4]"]
    turned = replace(pairs[0], a="sun", b="ddim", steps=8, steps_b=4, difference=-0.3)
    turned = replace(turned, difference_low=-0.4, difference_high=-0.2)
    assert "| +0.3 [+0.2, +0.4] |" in board(RunData([sun, ddim], win_rates=(turned,)), (8,))
    assert "[+" not in board(RunData([sun, ddim]), (8,)).split("###")[1]


def test_the_front_is_of_time_against_distance():
    times = [
        CellTime("tiny", r.method, "candidate", r.steps, r.nfe or 0, 0.1, 0.01 * r.steps, 0.0)
        for r in ROWS[:4]
    ]
    text = board(RunData(ROWS[:4], tuple(times)), (8, 16))
    starred = [line.split("`")[1] for line in text.splitlines() if "` ★ |" in line]
    assert sorted(starred) == ["adaptive-guidance", "sun"]


def test_times_in_doubt_are_marked_with_the_reason():
    reference = CellTime("tiny", "dpm++", "reference", 25, 50.0, 0.1, 0.2, 0.0)
    busy = CellTime(
        "tiny", ROW.method, "candidate", ROW.steps, 8.0, 0.1, 0.05, 0.0, flags=("busy machine: x",)
    )
    text = board(RunData([ROW], (reference, busy)), (8,))
    assert "| 50.0 † |" in text
    assert f"- †{ROW.method} at {ROW.steps} steps: busy machine: x" in text
    fine = replace(busy, flags=())
    assert "†" not in board(RunData([ROW], (reference, fine)), (8,))


def test_what_no_paper_specifies_says_so():
    text = board(RunData([replace(ROW, method="gri-attention")]), (8,))
    assert "gri-attention: unspecified in the paper" in text
    assert "unspecified" not in board(RunData([ROW]), (8,))


def test_a_metric_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="given metric lpips, expected one that the run has"):
        board(RunData(ROWS), (8,), "lpips")
