"""The answer in words: the front, the pick, ties, and what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import result_row

from sunbench.errors import UserError
from sunbench.report.answer import answer, model_answer, picks
from sunbench.report.choice import (
    SAME_TIME,
    Point,
    complete,
    default_distance,
    front,
    knee,
    pick,
    points,
    recommend,
    same_latency,
    tie,
)
from sunbench.report.data import CellTime
from sunbench.store import PairRow, ResultRow

ROW = result_row()


def row(
    method: str, steps: int, value: float | None, width: float = 0.02, **more: Any
) -> ResultRow:
    ends = {} if value is None else {"low": value - width, "high": value + width}
    none = {"low": None, "high": None, "reason": "no CFG"} if value is None else {}
    fields = {"method": method, "steps": steps, "value": value, "nfe": 2 * steps}
    return replace(ROW, **(fields | ends | none | more))


def time(method: str, steps: int, ms: float, role: str = "candidate") -> CellTime:
    """From noise to pixels; NFE as many as the milliseconds, so that no speed-up is odd."""
    return CellTime("tiny", method, role, steps, ms, 0.9 * ms / 1000, 0.95 * ms / 1000, 5e-5 * ms)


def share(a: str, b: str, steps: int, low: float, high: float) -> PairRow:
    return PairRow("tiny", steps, "perceptual[zoo-clip]", a, b, (low + high) / 2, low, high, 100)


def sentences(*args: Any, **limits: Any) -> list[str]:
    return [f"{p.model}: {p.sentence}" for p in picks(*args, **limits)]


ROWS = [row("ddim", 4, 0.4), row("ddim", 8, 0.2), row("dpm++", 4, 0.25), row("dpm++", 8, 0.1)]
TIMES = [
    time("dpm++", 25, 100, "reference"),
    time("ddim", 4, 16),
    time("ddim", 8, 32),
    time("dpm++", 4, 16.1),
    time("dpm++", 8, 32.2),
]
CLEAR = [share("ddim", "dpm++", 4, 0.1, 0.2), share("ddim", "dpm++", 8, 0.1, 0.2)]


def test_methods_at_equal_nfe_are_told_apart_where_the_run_compares_them():
    """Not those at equal steps, of which one does half of the work."""
    rows = [row("ddim", 4, 0.4), row("sun", 8, 0.39, nfe=8), row("ddim", 8, 0.39, nfe=16)]
    pair = replace(share("ddim", "sun", 4, 0.4, 0.6), steps_b=8, nfe=8)
    told = [s for s in answer(rows, [], [pair]) if "distinguishable" in s]
    assert told == [
        "tiny: Not distinguishable: ddim at 4 steps and sun at 8 steps (ddim is closer on 50 %"
        " [40, 60] of prompts)."
    ]
    clear = replace(pair, low=0.1, high=0.2)
    told = answer(rows, [], [clear])
    assert "Methods at equal NFE: every difference in distance is distinguishable." in str(told)


# ------------------------------------------------------------------------------ whole answers


def test_an_answer_names_the_recommended_the_front_and_that_all_is_clear():
    assert answer(ROWS, TIMES, CLEAR) == [
        "tiny: dpm++ at 4 steps makes images 6.2 times as fast as the reference"
        " (16.10 ms, 8 NFE, 0.2500 [0.2300, 0.2700])."
        " Recommended: the best balance of latency and distance on the front.",
        "tiny: On the front of latency against perceptual[zoo-clip]: "
        "dpm++ at 4 steps (16.10 ms, 8 NFE, 0.2500 [0.2300, 0.2700]) and "
        "dpm++ at 8 steps (32.20 ms, 16 NFE, 0.1000 [0.08000, 0.1200]). "
        "By value each of the other 2 is beaten: something closer takes no more time.",
        "tiny: Methods at equal steps: every difference in distance is distinguishable.",
    ]


def test_a_share_around_one_half_is_not_distinguishable():
    pairs = [share("ddim", "dpm++", 4, 0.46, 0.58), CLEAR[1]]
    said = answer(ROWS, TIMES, pairs)[-1]
    assert said == (
        "tiny: Not distinguishable: ddim at 4 steps and dpm++ at 4 steps "
        "(ddim is closer on 52 % [46, 58] of prompts)."
    )


def test_without_shares_overlapping_intervals_are_not_distinguishable():
    rows = [row("ddim", 4, 0.27), row("dpm++", 4, 0.25), row("dpm++", 8, 0.24)]
    said = " ".join(answer(rows, TIMES, []))
    assert "ddim at 4 steps and dpm++ at 4 steps (their intervals overlap)" in said
    assert "dpm++ at 4 steps and dpm++ at 8 steps (their intervals overlap)" in said


def test_a_difference_is_believed_before_the_share():
    """The interval that the verdict is read off is the one that is named."""
    pair = replace(share("ddim", "dpm++", 4, 0.1, 0.2), difference=0.01)
    pair = replace(pair, difference_low=-0.02, difference_high=0.04)
    said = answer(ROWS, TIMES, [pair, CLEAR[1]])[-1]
    assert "dpm++ at 4 steps (ddim minus dpm++: +0.01 [-0.02, +0.04])" in said
    clear = replace(pair, difference_low=0.005, low=0.4, high=0.6)
    assert (
        "every difference in distance is distinguishable"
        in answer(ROWS, TIMES, [clear, CLEAR[1]])[-1]
    )


def test_a_share_is_believed_before_the_intervals():
    rows = [row("ddim", 4, 0.26), row("dpm++", 4, 0.25)]
    a, b = points(rows, TIMES, "tiny", "perceptual[zoo-clip]")
    assert tie([], a, b) == "their intervals overlap"
    assert tie(CLEAR, a, b) is None
    assert tie(CLEAR, b, a) is None


def test_many_ties_are_counted():
    methods = ["a", "b", "c", "d", "e"]
    rows = [row(m, 4, 0.25) for m in methods]
    said = answer(rows, [time(m, 4, 10 + i) for i, m in enumerate(methods)], [])
    assert said[-1].endswith("; and 4 more.")


def test_missing_values_and_times_are_said():
    rows = [*ROWS[:2], row("sun", 4, None), row("unipc", 4, 0.1)]
    said = answer(rows, TIMES, [])
    assert "tiny: No number for sun at 4 steps: no CFG." in said
    assert "tiny: No latency for unipc at 4 steps." in said
    assert "unipc" not in said[0] + said[1]
    assert "tiny: No latency was measured." in answer(ROWS[:2], [], [])


def test_one_method_at_one_number_of_steps_has_no_front():
    (said,) = answer(ROWS[:1], TIMES, [])
    assert said.startswith(
        "tiny: Only one has both a latency and a distance: ddim at 4 steps (16.00"
    )


def test_one_method_alone_has_a_front_and_no_rivals():
    said = answer(ROWS[:2], TIMES, [])
    assert said[1].endswith("None of them is beaten by another.")


def test_nothing_measured():
    assert "no front" in answer([row("sun", 4, None)], TIMES, [])[0]
    assert "no front" in answer(ROWS, [], [])[0]
    clip = [row("ddim", 4, 30.0, metric="clip_score[zoo-clip]")]
    assert answer(clip, TIMES, []) == [
        "tiny: No distance from the reference was measured, so there is nothing to choose by."
    ]
    assert answer([], [], []) == []


def test_equal_work_on_the_front_is_doubted():
    rows = [row("ddim", 4, 0.4), row("dpm++", 4, 0.25)]
    said = answer(rows, [time("ddim", 4, 10), time("dpm++", 4, 16)], [])
    assert said[2].startswith("tiny: Equal NFE: ddim at 4 steps and dpm++ at 4 steps;")


def test_every_model_answers_for_itself():
    other = [replace(r, model="other", value=r.value) for r in ROWS]
    said = answer([*ROWS, *other], TIMES, CLEAR)
    assert sum(s.startswith("tiny: ") for s in said) == 3
    assert any(s.startswith("other: Nothing has both a latency") for s in said)


def test_the_whole_interval_must_be_within_the_limit():
    (said,) = sentences(ROWS, TIMES, CLEAR, max_distance=0.26)
    # dpm++ at 4 steps reaches to 0.27; ddim at 8 steps takes as long as dpm++, and is farther
    assert "the fastest is dpm++ at 8 steps" in said
    (said,) = sentences(ROWS, TIMES, CLEAR, max_distance=0.11)
    assert said.endswith("Its interval reaches beyond that limit.")


# ------------------------------------------------------------------------------ the distance


def test_lpips_comes_first_then_the_first_with_values():
    fd, ssim = row("ddim", 4, 3.0, metric="fd[zoo-clip]"), row("ddim", 4, 0.9, metric="ssim")
    clip = row("ddim", 4, 30.0, metric="clip_score[zoo-clip]")
    assert default_distance([clip, ssim, fd, ROW]) == "perceptual[zoo-clip]"
    assert default_distance([clip, ssim, fd]) == "ssim"
    assert default_distance([fd, row("ddim", 4, None)]) == "fd[zoo-clip]"
    assert default_distance([clip]) is None


def test_where_higher_is_better_the_limit_is_a_least_value():
    rows = [replace(r, metric="ssim", value=1 - r.value, low=None, high=None) for r in ROWS]
    said = model_answer(rows, TIMES, [], "tiny")
    assert "dpm++ at 4 steps" in said[0]
    assert "dpm++ at 8 steps" in said[1]
    (chosen,) = sentences(rows, TIMES, [], max_distance=0.85)
    assert "With ssim at least 0.8500, the fastest is dpm++ at 8 steps" in chosen


# ------------------------------------------------------------------------------ pick


def test_pick_by_time_and_by_loss():
    choices = points(ROWS, TIMES, "tiny", "perceptual[zoo-clip]")
    names = [
        getattr(pick(choices, max_latency_ms=15), "name", None),
        getattr(pick(choices, max_latency_ms=20), "name", None),
        getattr(pick(choices, max_latency_ms=99), "name", None),
        getattr(pick(choices, max_distance=0.3), "name", None),
        getattr(pick(choices, max_distance=0.05), "name", None),
    ]
    assert names == [None, "dpm++ at 4 steps", "dpm++ at 8 steps", "dpm++ at 4 steps", None]


def test_pick_says_what_is_nearest_when_none_is_within():
    assert sentences(ROWS, TIMES, [], max_latency_ms=1)[0].startswith(
        "tiny: With at most 1.000 ms: none. The fastest is ddim at 4 steps"
    )
    assert (
        "none. The closest is dpm++ at 8 steps" in sentences(ROWS, TIMES, [], max_distance=0.01)[0]
    )
    assert sentences(ROWS, [], [], max_distance=1)[0].endswith(
        "none. Nothing has both a latency and a distance."
    )


def test_pick_wants_one_finite_limit_or_none():
    with pytest.raises(UserError, match="expected one of the two"):
        picks(ROWS, TIMES, [], max_latency_ms=1.0, max_distance=1.0)
    with pytest.raises(UserError, match="given a maximum latency of nan"):
        picks(ROWS, TIMES, [], max_latency_ms=float("nan"))
    with pytest.raises(UserError, match="given a maximum distance of inf"):
        picks(ROWS, TIMES, [], max_distance=float("inf"))


def test_without_a_limit_the_pick_is_the_recommended():
    (one,) = picks(ROWS, TIMES, [])
    assert one.point is not None
    assert one.point.name == "dpm++ at 4 steps"
    (none,) = picks(ROWS, [], [])
    assert none.point is None


def test_pick_knows_its_distances():
    with pytest.raises(UserError, match=r"did you mean 'perceptual\[zoo-clip\]'"):
        sentences(ROWS, TIMES, [], max_distance=1, metric="perceptual[zoo-klip]")


# ------------------------------------------------------------------------------ recommended


def moved(p: Point, value: float, width: float = 0.02) -> Point:
    ends = {"relative_low": value - width, "relative_high": value + width}
    return replace(p, row=replace(p.row, relative=value, **ends))


def test_recommended_is_the_fastest_that_moves_clearly_less_than_half_of_a_new_seed():
    given_points = [
        moved(p, v)
        for p, v in zip(at([(10, 0.3), (20, 0.2), (40, 0.1)]), (0.6, 0.45, 0.2), strict=True)
    ]
    best = recommend(given_points)
    assert best is not None
    assert best.point.ms == 20
    assert best.rule == "the fastest that moves images by less than 50 % of what a new seed does"
    unsure = [given_points[0], moved(given_points[1], 0.49), given_points[2]]
    assert recommend(unsure).point.ms == 40  # the interval of the second holds the margin


def test_without_one_within_the_margin_the_knee_is_recommended():
    spots = at([(10, 0.6), (14, 0.3), (30, 0.25), (90, 0.24)])
    best = recommend([moved(p, 0.9) for p in spots])
    assert best is not None
    assert best.point.ms == 14
    assert best.rule == "the best balance of latency and distance on the front"
    assert recommend([]) is None


# ------------------------------------------------------------------------------ noise of timing


def timed_as(
    ddim: float, dpm: float, quartiles: float = 0.0, dpm_steps: int = 4
) -> tuple[list[ResultRow], list[CellTime]]:
    """ddim at 4 steps and a closer dpm++, both well within the margin, with these latencies."""
    relative = {"relative": 0.2, "relative_low": 0.18, "relative_high": 0.22}
    rows = [row("ddim", 4, 0.4, **relative), row("dpm++", dpm_steps, 0.25, **relative)]
    times = [time("dpm++", 25, 100, "reference"), time("ddim", 4, ddim)]
    times.append(time("dpm++", dpm_steps, dpm))
    around = [(t.latency_ms - quartiles, t.latency_ms + quartiles) for t in times]
    return rows, [replace(t, quartiles_ms=q) for t, q in zip(times, around, strict=True)]


def chosen(rows: list[ResultRow], times: list[CellTime], **limits: Any) -> str:
    (one,) = picks(rows, times, [], **limits)
    assert one.point is not None
    return one.point.name


@pytest.mark.parametrize("limits", [{}, {"max_distance": 0.5}])
@pytest.mark.parametrize(("ddim", "dpm"), [(16, 16.1), (16.1, 16), (15, 16.4), (16.4, 15)])
def test_at_equal_nfe_the_noise_of_timing_does_not_choose(ddim, dpm, limits):
    assert chosen(*timed_as(ddim, dpm), **limits) == "dpm++ at 4 steps"


def test_at_equal_nfe_what_is_clearly_faster_is_chosen():
    assert chosen(*timed_as(12, 16)) == "ddim at 4 steps"


@pytest.mark.parametrize("limits", [{}, {"max_distance": 0.5}])
def test_of_overlapping_quartiles_the_closer_is_chosen(limits):
    assert chosen(*timed_as(12, 14, 0.5, dpm_steps=5), **limits) == "ddim at 4 steps"
    assert chosen(*timed_as(12, 14, 1.5, dpm_steps=5), **limits) == "dpm++ at 5 steps"


# ------------------------------------------------------------------------------ the front

SPOTS = st.lists(st.tuples(st.floats(1, 1000), st.floats(0.001, 1)), min_size=1, max_size=12)


def at(spots: list[tuple[float, float]]) -> list[Point]:
    return [Point(row(f"m{i}", 4, v), ms) for i, (ms, v) in enumerate(spots)]


@settings(deadline=None)
@given(SPOTS)
def test_the_front_holds_the_closest_and_beats_all_others(spots: list[tuple[float, float]]):
    given_points = at(spots)
    line = front(given_points)
    assert min(p.loss for p in given_points) in [p.loss for p in line]
    for p in given_points:
        better = [q for q in line if q.loss < p.loss and q.ms <= p.ms * (1 + SAME_TIME) ** 12]
        assert p in line or better


@settings(deadline=None)
@given(SPOTS)
def test_nothing_on_the_front_beats_another_on_it(spots: list[tuple[float, float]]):
    line = front(at(spots))
    assert not [(a, b) for a in line for b in line if a.loss < b.loss and a.ms <= b.ms]
    assert [p.ms for p in line] == sorted(p.ms for p in line)


@settings(deadline=None)
@given(SPOTS)
def test_the_knee_is_on_the_front_and_never_its_slow_end_of_two_or_more(
    spots: list[tuple[float, float]],
):
    line = front(at(spots))
    chosen = knee(line)
    assert chosen in line
    assert len(line) == 1 or chosen is not line[-1] or len(line) > 2


@settings(deadline=None)
@given(SPOTS, st.floats(1, 1000), st.floats(0.001, 1))
def test_a_pick_is_within_its_limit_and_the_best_there(
    spots: list[tuple[float, float]], most_ms: float, most_loss: float
):
    whole = complete(at(spots))
    quick, close = pick(whole, max_latency_ms=most_ms), pick(whole, max_distance=most_loss)
    in_time = [p.loss for p in whole if p.ms <= most_ms]
    in_loss = [p for p in whole if p.worst <= most_loss]
    assert (None if quick is None else quick.loss) == min(in_time, default=None)
    as_fast = [p.loss for p in in_loss if same_latency(p, in_loss[0])]
    assert (None if close is None else close.loss) == min(as_fast, default=None)
    assert close is None or (close in in_loss and same_latency(close, in_loss[0]))
