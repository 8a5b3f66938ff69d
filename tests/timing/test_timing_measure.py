"""A timing pass on a tiny pipeline: who goes when, what is timed, what is refused."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.errors import UserError
from sunbench.models import LoadedModel, ModelCard
from sunbench.sampling import Sampler, SampleSettings
from sunbench.timing import TimedMethod, TimingSettings, measure_times, timed_method
from sunbench.timing.rounds import turn_order

SETTINGS = TimingSettings(16, batch=3, prompts=(("ab", "ba"), ("cd", "")), rounds=3, warm_up=1)


@pytest.fixture(scope="module")
def loaded(pipeline: Any) -> LoadedModel:
    card = ModelCard("tiny", "folder", "tiny", architecture="zoo", resolution=16)
    return LoadedModel(pipeline, card, {}, "own")


def methods(loaded: LoadedModel) -> list[TimedMethod]:
    dpm, ddim = registry.method("dpm++"), registry.method("ddim")
    return [
        timed_method(dpm, loaded, SampleSettings(5, 3.0), "reference"),
        timed_method(ddim, loaded, SampleSettings(2, 3.0)),
        timed_method(ddim, loaded, SampleSettings(2, 1.0)),
    ]


@pytest.fixture(scope="module")
def rows(loaded: LoadedModel) -> list[Any]:
    return measure_times(loaded, methods(loaded), SETTINGS, "full")


def test_every_method_has_a_row_at_batch_1_and_at_the_runs_batch(rows):
    assert [(r.method, r.role, r.steps, r.batch) for r in rows] == [
        ("dpm++", "reference", 5, 1),
        ("ddim", "candidate", 2, 1),
        ("ddim", "candidate", 2, 1),
        ("dpm++", "reference", 5, 3),
        ("ddim", "candidate", 2, 3),
        ("ddim", "candidate", 2, 3),
    ]
    assert [r.nfe for r in rows[:3]] == [10, 4, 2]
    assert {r.rounds for r in rows} == {3}
    assert {r.model for r in rows} == {"tiny"}


def test_parts_are_positive_and_add_up(rows):
    for row in rows:
        parts = (row.text_seconds, row.sampler_seconds, row.unet_seconds, row.decoder_seconds)
        for text, sampler, unet, decoder in zip(*parts, strict=True):
            assert min(text, unet, decoder) > 0
            assert unet < sampler
        assert row.seconds == tuple(
            map(sum, zip(row.text_seconds, row.sampler_seconds, row.decoder_seconds, strict=True))
        )
        assert row.latency_ms.low <= row.latency_ms.median <= row.latency_ms.high
        assert row.images_per_second.median * row.latency_ms.median == pytest.approx(
            1000 * row.batch, rel=0.2
        )


def test_speed_ups_are_to_the_reference_at_the_same_batch(rows):
    for reference, *others in (rows[:3], rows[3:]):
        assert reference.speed_up == reference.unet_speed_up == (1, 1, 1)
        assert [r.nfe_ratio for r in others] == [2.5, 5]
        gains = [a / b for a, b in zip(reference.seconds, others[0].seconds, strict=True)]
        assert others[0].speed_up.median == pytest.approx(sorted(gains)[1])


def test_the_machine_and_the_settings_are_recorded(rows, pipeline):
    machine = rows[0].machine
    assert machine.dtype == "float32"
    assert machine.threads == torch.get_num_threads()
    assert machine.memory_format == "contiguous"
    assert machine.tf32_cudnn is bool(torch.backends.cudnn.allow_tf32)
    assert machine.versions["torch"] == torch.__version__.split("+")[0]
    assert 0 <= machine.other_cpus <= machine.cpus
    assert all(r.peak_bytes is None or r.peak_bytes > 2**20 for r in rows)


def test_turns_are_fair():
    assert turn_order(3, 4) == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


class Recorder:
    """A sampler that leaves the noise as it is, and says when it is called."""

    def __init__(self, name: str, calls: list[tuple[str, int]], error: bool = False) -> None:
        self.name, self.calls, self.error, self.nfe = name, calls, error, 1.0

    def sample(self, batch: Any) -> torch.Tensor:
        if self.error:
            raise UserError("latents are not finite")
        self.calls.append((self.name, len(batch)))
        return batch.latents

    def method(self, role: str = "candidate") -> TimedMethod:
        @contextmanager
        def sampler() -> Iterator[Sampler]:
            yield self

        return TimedMethod(self.name, role, SampleSettings(1, 1.0), False, sampler)


def test_methods_take_turns_after_a_warm_up(loaded):
    calls: list[tuple[str, int]] = []
    two = [Recorder("a", calls).method("reference"), Recorder("b", calls).method()]
    measure_times(loaded, two, TimingSettings(16, batch=2, rounds=3, warm_up=2), "full")
    names = "".join(name for name, _ in calls)
    assert names == 2 * ("aabb" + "ab" + "ba" + "ab")
    assert [batch for _, batch in calls] == [1] * 10 + [2] * 10


def test_a_method_with_a_network_of_its_own_has_no_speed_up_in_the_u_net(loaded):
    two = [methods(loaded)[0], Recorder("b", []).method()]
    _, row = measure_times(loaded, two, TimingSettings(16, rounds=3), "full")
    assert row.unet_speed_up is None
    assert row.speed_up.median > 1


def test_a_method_that_fails_has_no_row_and_the_log_says_why(loaded, caplog):
    calls: list[tuple[str, int]] = []
    two = [Recorder("a", calls).method("reference"), Recorder("b", calls, True).method()]
    with caplog.at_level(logging.WARNING):
        rows = measure_times(loaded, two, TimingSettings(16, rounds=3), "full")
    assert {r.method for r in rows} == {"a"}
    assert "b at 1 steps is not timed at batch 1: latents are not finite" in caplog.text


def test_a_short_pass_without_time_has_one_round_at_batch_1(loaded, monkeypatch):
    module = importlib.import_module("sunbench.timing.measure")
    monkeypatch.setattr(module, "SINGLE_SECONDS", 0.0)
    settings = TimingSettings(16, batch=8, budget_seconds=0.0)
    rows = measure_times(loaded, methods(loaded), settings, "short")
    assert {(r.batch, r.rounds, r.warm_up) for r in rows} == {(1, 1, 1)}
    assert all("1 timed round, too few for quartiles" in r.flags for r in rows)


def test_a_short_pass_has_five_rounds_at_batch_1_whatever_the_runs_share(loaded):
    """A twentieth of a short run once left two rounds, and every speed-up was flagged."""
    settings = TimingSettings(16, batch=8, budget_seconds=0.0)
    rows = measure_times(loaded, methods(loaded), settings, "short")
    assert {(r.batch, r.rounds, r.warm_up) for r in rows} == {(1, 5, 1)}
    assert not any("too few" in flag for r in rows for flag in r.flags)


def test_a_short_pass_with_time_takes_the_runs_batch_too(loaded):
    settings = TimingSettings(16, batch=2, budget_seconds=60.0)
    rows = measure_times(loaded, methods(loaded)[:1], settings, "short")
    assert [(r.batch, r.rounds) for r in rows] == [(1, 5), (2, 5)]


def test_no_pass_and_no_methods_have_no_rows(loaded):
    assert measure_times(loaded, methods(loaded), SETTINGS, "none") == []
    assert measure_times(loaded, [], SETTINGS, "full") == []


def test_mistakes_are_one_line(loaded):
    with pytest.raises(UserError, match="unknown timing level 'shrt'; did you mean 'short'"):
        measure_times(loaded, methods(loaded), SETTINGS, "shrt")
    with pytest.raises(UserError, match="given rounds 0 of a timing pass, expected 1 or more"):
        TimingSettings(16, rounds=0)
