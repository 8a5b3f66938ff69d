"""The model of docs/scale.md against what must hold of any schedule."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_SPEC = importlib.util.spec_from_file_location(
    "scale_model", Path(__file__).parents[1] / "benchmarks/scale_model.py"
)
model = importlib.util.module_from_spec(_SPEC)
sys.modules["scale_model"] = model
_SPEC.loader.exec_module(model)
Plan, Site, simulate = model.Plan, model.Site, model.simulate


def test_one_worker_takes_the_sum():
    plan = Plan(3, 10.0, (2.0, 4.0))
    assert simulate(plan, Site(1, start=5)).seconds == 5 + 3 * (10 + 10 + 2 + 4)


def test_endless_workers_take_the_longest_shard():
    """A candidate's shard is sampled while its reference is."""
    plan = Plan(3, 10.0, (2.0, 4.0), floor=False)
    assert simulate(plan, Site(1000, start=5)).seconds == 5 + 10


def test_two_workers_share_a_run_of_one_shard_per_cell():
    """The reference beside the floor, then a long and a short candidate each."""
    plan = Plan(1, 50.0, (8.0, 16.0, 8.0, 16.0))
    assert simulate(plan, Site(2, start=0)).seconds == plan.seconds / 2 == 50 + 16 + 8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 9))
def test_every_shard_is_made_once_within_grahams_bound(shards: int, workers: int, seed: int):
    plan = Plan(shards, 7.0, (2.0, 3.0))
    outcome = simulate(plan, Site(workers, start=0), seed)
    assert len(set(outcome.written)) == len(outcome.written) == 4 * shards
    longest = 7.0
    assert max(plan.seconds / workers, longest) <= outcome.seconds + 1e-9
    assert outcome.seconds <= plan.seconds / workers + longest + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 9))
def test_failures_lose_time_and_no_shard(workers: int, seed: int):
    plan = Plan(10, 7.0, (2.0, 3.0))
    outcome = simulate(plan, Site(workers, mtbf=20.0, expiry=60.0), seed)
    assert len(set(outcome.written)) == len(outcome.written) == 40
    assert outcome.seconds >= simulate(plan, Site(workers), seed).seconds or not outcome.lost


def test_a_slow_disk_is_a_floor_below_the_time():
    plan = Plan(10, 1.0, (1.0,), shard_bytes=100.0)
    assert simulate(plan, Site(64, start=0, disk=10.0)).seconds >= 30 * 10


@pytest.mark.parametrize("workers", [2, 16])
def test_more_workers_are_not_slower(workers: int):
    assert simulate(model.STUDY, Site(workers)).seconds < simulate(model.STUDY, Site(1)).seconds


def test_a_run_with_one_worker_gives_the_costs_that_it_took():
    """Two shards of a reference, a floor, a candidate; the worker began after 3 seconds."""
    written, now = [], 3.0
    for cell, cost in (("reference", 10.0), ("floor", 10.0), ("ddim", 4.0)):
        for _ in range(2):
            now += cost
            written.append((now, cell))
    plan, start = model.fitted(model.RealRun(now + 5, written))
    assert (plan.shards, plan.reference, plan.candidates, start) == (2, 10.0, (4.0,), 3.0)
    assert simulate(plan, Site(1, start=start)).seconds == now
    half = model.shared(plan, 4, 2)
    assert simulate(half, Site(2, start=start)).seconds == 3 + 2 * (now - 3) / 2
    assert model.shared(plan, 2, 2) == plan
