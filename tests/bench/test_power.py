"""A plan says what its number of prompts can show, from a pilot or from a cached floor."""

from __future__ import annotations

import re
import shutil
from typing import Any

import numpy as np
import pytest

from sunbench.bench.planner import plan
from sunbench.bench.power import add_power, distance, planned_comparisons
from sunbench.metrics.comparisons import minimum_detectable_effect
from sunbench.store import CellContent, CellStore, RunFolder
from sunbench.store.layout import CellLayout

METRIC = "perceptual[zoo-clip]"


def power(lab: Any, name: str = "run", **changes: Any) -> str:
    (model,) = plan(lab.request(**changes))
    add_power([model], lab.request(**changes), lab.out / name)
    return model.power


def smallest(text: str) -> float:
    match = re.search(r"is about ([\d.e-]+)", text)
    assert match, text
    return float(match[1])


def test_a_plan_of_the_pilots_own_size_repeats_its_detectable_difference(done: Any):
    pairs = RunFolder(done.out / "run").read_results_document().pairs
    (own,) = (p.detectable for p in pairs if p.metric == METRIC)
    text = power(done)
    assert smallest(text) == pytest.approx(own, rel=0.06)  # two digits are printed
    for part in (
        METRIC,
        "10 prompts show",
        "1 comparison;",
        "from the run in this folder",
        "new s",
    ):
        assert part in text


def test_fewer_prompts_and_more_comparisons_show_less(done: Any):
    whole = smallest(power(done))
    assert smallest(power(done, images=8)) > whole
    assert smallest(power(done, methods=("ddim", "dpm++", "unipc", "deis"))) > whole


def test_without_a_pilot_the_cached_floor_bounds_it(done: Any):
    text = power(done, "elsewhere")
    assert "at most, from the cached floor" in text
    floor = done.reference(floor=True)
    (name,) = (n for n in floor.feature_names(0) if "-perceptual-zoo-clip-" in n)
    parts = {k: floor.read_features(k, name) for k in floor.shards()}
    scores = np.empty(20)
    for k, part in parts.items():
        scores[lab_layout(floor).shard(k)] = part
    deviation = 2**0.5 * scores.reshape(10, 2).mean(1).std(ddof=1)
    assert smallest(text) == pytest.approx(minimum_detectable_effect(deviation, 10), rel=0.06)


def lab_layout(store: CellStore) -> CellLayout:
    return CellContent.of(store.content, "content").layout


def test_with_neither_it_says_where_to_get_it(lab: Any):
    assert "known after a first, smaller run into the same folder" in power(lab)


def test_nothing_is_said_where_no_methods_are_compared(done: Any):
    assert power(done, methods=("ddim",)) == ""
    assert power(done, metrics=("fd[zoo-clip]",)) == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}'])
def test_broken_files_of_the_cache_are_no_source(done: Any, content: str):
    for file in done.cache.glob("reference_sets/*/cell.json"):
        file.write_text(content)
    shutil.rmtree(done.out / "run")
    assert "known after a first" in power(done)


def test_comparisons_are_pairs_at_equal_steps(done: Any):
    request = done.request(methods=("ddim", "dpm++", "unipc"), steps=(2, 4))
    (model,) = plan(request)
    assert planned_comparisons(model) == 6
    chosen = distance(model, request)
    assert chosen is not None
    assert chosen.label == METRIC
