"""The estimate before a run: the machine may interrupt it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sunbench.timing import seconds_per_evaluation
from sunbench.timing.estimate import PROBES

#: Seconds of one row on a clock that is set by hand.
ROW = 0.001


@pytest.fixture
def timed(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[int]]]:
    """Let each forward take its rows' seconds, and some of them longer; the rows of each."""
    now, rows, late = 0.0, list[int](), dict[int, float]()

    def forward(module: Any, args: tuple[Any, ...]) -> None:
        nonlocal now
        now += ROW * len(args[0]) + late.get(len(rows), 0.0)
        rows.append(len(args[0]))

    def start(interrupted: dict[int, float] | None = None) -> list[int]:
        rows.clear()
        late.clear()
        late.update(interrupted or {})
        return rows

    monkeypatch.setattr("sunbench.sampling.stopwatch.time.perf_counter", lambda: now)
    hook = pipeline.unet.register_forward_pre_hook(forward)
    yield start
    hook.remove()


def test_a_row_takes_what_it_takes(pipeline: Any, timed: Any):
    rows = timed()
    assert seconds_per_evaluation(pipeline, 4, 8) == pytest.approx(ROW)
    assert rows == [2] * PROBES + [8] * PROBES


@pytest.mark.parametrize("at", range(2 * PROBES))
def test_one_interrupted_probe_does_not_count(pipeline: Any, timed: Any, at: int):
    """It once made a run of a quarter of an hour one of 32 hours."""
    timed({at: 1.0})
    assert seconds_per_evaluation(pipeline, 4, 8) == pytest.approx(ROW)


def test_a_big_network_is_timed_at_two_rows(pipeline: Any, timed: Any):
    rows = timed(dict.fromkeys(range(PROBES), 10.0))
    assert seconds_per_evaluation(pipeline, 4, 8) == pytest.approx(5 + ROW)
    assert rows == [2] * PROBES
