"""The timing pass at the end of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sunbench.bench import timed
from sunbench.bench.planner import plan
from sunbench.errors import UserError
from sunbench.store.timings import TimingRow
from sunbench.timing import TimingSettings


def timing(lab: Any, name: str = "run") -> list[TimingRow]:
    records = json.loads((lab.out / name / "results.json").read_text())["timing"]
    return [TimingRow.from_json(r, str(i)) for i, r in enumerate(records)]


def test_a_run_times_its_reference_and_what_could_be_sampled(done):
    rows = timing(done)
    assert [(r.role, r.method, r.steps) for r in rows if r.batch == 1] == [
        ("reference", "dpm++", 5),
        ("candidate", "ddim", 2),
        ("candidate", "dpm++", 2),
    ]
    assert [r.nfe for r in rows if r.batch == 1] == [10, 4, 4]
    assert {r.model for r in rows} == {"tiny"}
    assert {r.guidance_scale for r in rows} == {3.0}
    assert {r.resolution for r in rows} == {16}
    assert max(r.batch for r in rows) <= 4
    for row in rows:
        assert row.machine.memory_format == "channels_last"
        assert row.machine.dtype == "float32"
        assert row.speed_up is not None


def test_a_full_pass_takes_the_runs_batch(lab):
    lab.run(methods=("ddim",), steps=(2,), timing="full")
    assert [(r.method, r.batch, r.rounds) for r in timing(lab)] == [
        ("dpm++", 1, 11),
        ("ddim", 1, 11),
        ("dpm++", 4, 11),
        ("ddim", 4, 11),
    ]


def test_none_times_nothing_and_another_level_is_one_line(lab):
    outcome = lab.run(methods=("ddim",), steps=(2,), timing="none")
    assert (outcome.times, timing(lab)) == ([], [])
    with pytest.raises(UserError, match="given timing 'long', expected one of"):
        lab.request(timing="long")


def test_a_finished_run_is_not_timed_again(done, monkeypatch):
    rows = timing(done)
    monkeypatch.setattr(timed, "measure_times", lambda *a: pytest.fail("timed again"))
    assert done.run().times == rows
    assert timing(done) == rows


def test_tasks_that_start_from_an_image_are_timed_with_it(lab):
    outcome = lab.run(methods=("ddim",), steps=(2,), task="image2image")
    assert [(r.role, r.task, r.nfe) for r in outcome.times if r.batch == 1] == [
        ("reference", "image2image", 10),
        ("candidate", "image2image", 4),
    ]


@pytest.mark.parametrize(("planned", "now"), [(0.5, 0.001), (0.001, 0.5)])
def test_an_interrupted_estimate_does_not_lengthen_the_pass(
    lab: Any, monkeypatch: pytest.MonkeyPatch, planned: float, now: float
):
    settings: list[TimingSettings] = []
    request = lab.request(timing="short")
    (model,) = plan(request)
    model = replace(model, seconds_per_nfe=planned)
    monkeypatch.setattr(timed, "evaluation_seconds", lambda *_: now)
    monkeypatch.setattr(timed, "measure_times", lambda *args: settings.append(args[2]))
    runner: Any = SimpleNamespace(batch=SimpleNamespace(size=4), sources=None)
    timed.time_model(model, request, runner)
    assert settings[0].budget_seconds == pytest.approx(0.05 * model.nfe * 0.001)
