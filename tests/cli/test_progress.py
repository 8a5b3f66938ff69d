"""The plan, and the time left as it is measured."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sunbench.progress import ConsoleProgress, TimeLeft, duration, skipped_lines


def test_time_left_is_the_plan_at_first_and_the_measured_speed_after():
    left = TimeLeft(100.0)
    start = left.points[0][0]
    assert left.seconds == 100.0
    left.advance(10.0, at=start + 20)  # half as fast as planned
    assert left.seconds == pytest.approx(180.0)
    left.advance(90.0, at=start + 200)
    assert left.seconds == 0.0


def test_time_left_follows_a_change_of_speed():
    left = TimeLeft(1000.0)
    start = left.points[0][0]
    for k in range(1, 101):
        left.advance(1.0, at=start + 10 * k)
    for k in range(1, 101):
        left.advance(1.0, at=start + 1000 + k)
    assert left.seconds == pytest.approx(800.0)


def test_what_was_stored_says_nothing_about_the_speed():
    left = TimeLeft(1000.0)
    start = left.points[0][0]
    left.advance(500.0, at=start + 1, stored=True)
    assert left.seconds == pytest.approx(500.0)
    left.advance(10.0, at=start + 20)  # half as fast as planned
    left.advance(90.0, at=start + 21, stored=True)
    assert left.seconds == pytest.approx(800.0)


def planned(model: str, label: str, skip: str | None = None) -> Any:
    cell = SimpleNamespace(model=model, method="[/red]x", steps=4, images=10, label=label)
    return SimpleNamespace(cell=cell, role="candidate", planned_nfe=80, skip=skip)


def test_without_a_terminal_there_are_plain_lines():
    screen = Console(width=120, file=io.StringIO(), force_terminal=False)
    cells = [planned("a[/b]c", "first [/b]"), planned("a[/b]c", "second")]
    facts = {"nfe": 160, "seconds_per_nfe": 0.5, "seconds": 80.0, "power": "8 prompts show [/b]"}
    facts |= {"not_pinned": ["a[/b]c: revision not pinned"]}
    model = SimpleNamespace(cells=cells, **facts)
    with ConsoleProgress(screen) as progress:
        progress.planned([model], 1000)  # type: ignore[list-item]
        for cell in cells:
            progress.cell(cell)
            progress.advance(80)
        progress.stage("a[/b]c: timing pass")
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "a[/b]c" in text
    assert "[/red]x" in text
    assert "160 U-Net evaluations, about 80 s" in text
    assert "first [/b]: 0 % done, 80 s left" in text
    assert "second: 50 % done" in text
    assert text.endswith("\na[/b]c: timing pass\n")
    assert "8 prompts show [/b]" in text
    assert "a[/b]c: revision not pinned" in text
    assert "\x1b" not in text


def test_what_is_left_out_stands_below_once_with_its_models():
    plans = [
        SimpleNamespace(
            cells=[planned(m, "a"), planned(m, "b", "no [/b]"), planned(m, "c", "no [/b]")]
        )
        for m in ("one", "two")
    ]
    assert skipped_lines(plans) == ["left out on one, two: no [/b]"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text
