"""The one loop: cells of any prompts, guidance and steps; memory that runs out; the writer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sunbench import registry
from sunbench.bench.batches import BatchSize, out_of_memory
from sunbench.bench.cells import plan_cell
from sunbench.bench.planner import plan
from sunbench.bench.runner import Runner
from sunbench.bench.writer import ShardWriter
from sunbench.errors import NotFinite, UserError
from sunbench.models import find_model, load
from sunbench.prompts import Prompt, PromptSet
from sunbench.sampling import generate
from sunbench.store import RunFolder

PROMPTS = PromptSet("some", tuple(Prompt(f"p{i}", f"a cat {i}") for i in range(3)), "", "")
NEGATED = PromptSet("not", tuple(Prompt(p.id, p.text, "a boat") for p in PROMPTS.rows), "", "")


@pytest.fixture
def loaded(lab: Any) -> Any:
    return load(find_model(str(lab.world.card)))


def planned(loaded: Any, prompts: PromptSet = PROMPTS, steps: int = 1, **changes: Any) -> Any:
    return plan_cell(loaded, prompts, registry.method("ddim"), steps, seeds=(0, 1), **changes)


def images(handle: Any) -> np.ndarray:
    return torch.cat([handle.images(k) for k in range(handle.cell.shards)]).numpy()


def hashes(handle: Any) -> list[str]:
    return [r.noise_hash for k in range(handle.cell.shards) for r in handle.store.read_rows(k)]


# ------------------------------------------------------------------------------ cells


def test_a_study_is_cells_of_its_own_prompts_guidance_and_steps(loaded: Any, tmp_path: Path):
    """The same noise for a prompt in all of them, encoded and stored once, resumed at no cost."""
    cells = [
        planned(loaded),
        planned(loaded, NEGATED),
        planned(loaded, guidance_scale=1.0),
        planned(loaded, steps=2),
    ]
    runner = Runner(loaded, tmp_path, batch=4)
    handles = runner.run(cells)
    assert runner.new_shards == 8  # three prompts each, at two seeds
    assert len({h.store.key for h in handles}) == 4
    assert len({tuple(hashes(h)) for h in handles}) == 1
    sampled = [images(h) for h in handles]
    assert sampled[0].shape == (6, 3, 16, 16)
    assert all((sampled[0] != other).any() for other in sampled[1:])
    nfe = [h.store.read_features(0, "cost")[0, 0] for h in handles]
    assert nfe == [2, 2, 1, 4]
    assert [r.negative for r in handles[1].store.read_rows(0)] == ["a boat"] * 3
    assert not (tmp_path / "texts").exists()

    again = Runner(loaded, tmp_path, batch=4)
    for one, other in zip(sampled, again.run(cells), strict=True):
        assert np.array_equal(one, images(other))
    assert again.new_shards == 0


def test_a_cell_that_a_method_cannot_make_says_why(loaded: Any):
    assert planned(loaded, steps=1001).skip == "1001 steps asked, the schedule has 1000"


# ------------------------------------------------------------------------------ trouble


def test_running_out_of_memory_halves_the_batch(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    whole = images(Runner(loaded, tmp_path / "whole", batch=4).make(planned(loaded)))
    sizes: list[int] = []

    def small(*args: Any) -> Any:
        sizes.append(len(args[4]))
        if len(args[4]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(*args)

    monkeypatch.setattr("sunbench.bench.runner.generate", small)
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "empty"))  # not to find the shards
    with caplog.at_level(logging.WARNING):
        handle = Runner(loaded, tmp_path / "small", batch=4).make(planned(loaded))
    assert sizes == [3, 2, 1, 1, 1, 1, 1, 1]
    assert "out of memory: going on with batches of 2" in caplog.text
    assert np.abs(images(handle).astype(int) - whole).max() <= 1


def test_the_estimate_of_time_runs_out_of_memory_too(lab: Any, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []

    def small(pipeline: Any, batch: int, side: int) -> float:
        sizes.append(batch)
        if batch > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 0.5

    monkeypatch.setattr("sunbench.bench.planner.seconds_per_evaluation", small)
    (model,) = plan(lab.request(batch=64))
    assert sizes == [16, 8, 4]
    assert model.seconds_per_nfe == 0.5


def test_one_image_that_does_not_fit_is_an_error():
    def full(size: int) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate memory"):
        BatchSize(4, "cpu").attempt(full)


def test_other_errors_are_not_taken_for_memory():
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        BatchSize(4, "cpu").attempt(lambda size: (_ for _ in ()).throw(RuntimeError("shapes")))


def test_auto_is_a_number(lab: Any):
    assert BatchSize("auto", "cpu").size == 64
    settings = {"methods": ("ddim",), "steps": (1,), "images": 4, "seeds": (0,), "floor": False}
    assert lab.run(batch="auto", **settings).new_shards == 2


def test_a_candidate_of_nan_is_a_reason_and_the_run_goes_on(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    """It once ended the run, naming neither method nor cell."""
    real = generate

    def broken(cell: Any, *rest: Any) -> Any:
        if cell.method == "ddim":
            raise NotFinite("latents are not finite")
        return real(cell, *rest)

    monkeypatch.setattr("sunbench.bench.runner.generate", broken)
    lab.run(images=4, seeds=(0,), steps=(1,), floor=False)
    results = RunFolder(lab.out / "run").read_results()
    rows = {r.method: r for r in results if r.role == "candidate"}
    assert rows["ddim"].reason == "latents are not finite"
    assert rows["dpm++"].value is not None
    document = RunFolder(lab.out / "run").read_run().models[0]
    skips = {c.about.method: c.skip for c in document.cells[1:]}
    assert skips == {"ddim": "latents are not finite", "dpm++": None}


def test_a_failed_write_is_raised_and_nothing_is_written_after_it(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    handle = Runner(loaded, tmp_path, batch=4).make(planned(loaded))
    rows, calls = handle.store.read_rows(0), list[int]()

    def full(k: int, *rest: Any) -> None:
        calls.append(k)
        raise UserError("disk full while writing")

    monkeypatch.setattr(handle.store, "write_shard", full)
    monkeypatch.setattr(handle.store, "has_shard", lambda k: False)

    def write() -> None:
        with ShardWriter(handle.store) as writer:
            for k in range(3):
                writer.submit(k, rows, writer.encode(handle.images(0)), {})

    with pytest.raises(UserError, match="disk full"):
        write()
    assert calls == [0]
