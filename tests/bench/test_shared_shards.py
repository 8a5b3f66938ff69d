"""Runs that share a cache: more prompts and seeds find the shards that are there."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunbench import registry
from sunbench.bench.cells import plan_cell
from sunbench.bench.runner import Runner
from sunbench.bench.verify import verify_run
from sunbench.models import find_model, load
from sunbench.prompts import Prompt, PromptSet
from sunbench.store import CellStore, RunFolder

SMALL: dict[str, Any] = {
    "methods": ("ddim",),
    "steps": (1,),
    "seeds": (0,),
    "floor": False,
    "timing": "none",
}


def images(store: CellStore) -> dict[tuple[str, int], bytes]:
    """Pixels by prompt and seed."""
    rows = [r for k in store.shards() for r in store.read_rows(k, images=True)]
    return {(r.prompt_id, r.seed): r.image.tobytes() for r in rows}


def results(lab: Any, name: str) -> bytes:
    return RunFolder(lab.out / name).results_file.read_bytes()


def test_more_prompts_make_only_what_is_new(lab: Any, monkeypatch: pytest.MonkeyPatch):
    """4 then 12 prompts, in shards of four: two thirds of reference and candidate."""
    lab.world.prompts.with_name("twelve.txt").write_text(
        "".join(f"a {c} cat\n" for c in "abcdefghijkl")
    )
    prompts = {"prompts": str(lab.world.prompts.with_name("twelve.txt"))}
    assert lab.run("small", images=4, **SMALL, **prompts).new_shards == 2
    assert lab.run("large", images=12, **SMALL, **prompts).new_shards == 4
    assert verify_run(lab.out / "large") == (2, [])
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.out / "empty"))
    assert lab.run("anew", images=12, **SMALL, **prompts).new_shards == 6
    assert results(lab, "large") == results(lab, "anew")
    large, small = lab.cell("ddim", "large"), lab.cell("ddim", "small")
    assert images(small).items() <= images(large).items()
    first = [s.folder / s.manifest(0)["images"]["file"] for s in (large, small)]
    assert os.path.samefile(*first)  # one copy on disk
    assert large.feature_names(0) == small.feature_names(0)


def test_more_seeds_make_only_what_is_new(lab: Any, monkeypatch: pytest.MonkeyPatch):
    more = {**SMALL, "seeds": (0, 1)}
    assert lab.run("one", images=4, **SMALL).new_shards == 2
    assert lab.run("two", images=8, **more).new_shards == 2
    assert verify_run(lab.out / "two") == (2, [])
    rows = [r for k in range(2) for r in lab.cell("ddim", "two").read_rows(k)]
    assert [(r.index, r.seed) for r in rows] == [(i, i % 2) for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.out / "empty"))
    lab.run("anew", images=8, **more)
    assert results(lab, "two") == results(lab, "anew")


def test_runs_without_images_do_not_serve_runs_with_them(lab: Any):
    assert lab.run("bare", images=4, **SMALL, keep_images=False).new_shards == 2
    assert lab.run("kept", images=4, **SMALL).new_shards == 1  # the reference always keeps them
    assert lab.run("again", images=4, **SMALL, keep_images=False).new_shards == 0


def test_a_run_that_was_removed_is_forgotten(lab: Any):
    import shutil

    lab.run("gone", images=4, **SMALL)
    shutil.rmtree(lab.out / "gone")
    assert lab.run("next", images=4, **SMALL).new_shards == 1


def test_a_broken_shard_is_mended_from_another_run(lab: Any):
    lab.run("one", images=4, **SMALL)
    lab.run("two", images=4, **SMALL)
    store = lab.cell("ddim", "two")
    file = store.folder / "shard-00000.parquet"
    data = file.read_bytes()
    file.unlink()  # a link of its own: the other run's file stays as it is
    file.write_bytes(data[:-9] + b"x" * 9)
    assert lab.run("two", images=4, **SMALL).new_shards == 0
    assert verify_run(lab.out / "two") == (2, [])


def test_two_runs_at_once_make_each_shard_once(lab: Any, tmp_path: Path):
    """Two runners on pipelines of their own, at the same cell in folders of their own."""
    prompts = PromptSet("some", tuple(Prompt(f"p{i}", f"a cat {i}") for i in range(24)), "", "")
    runners = [Runner(load(find_model(str(lab.world.card))), tmp_path / n, batch=4) for n in "ab"]
    handles: dict[int, Any] = {}

    def go(i: int) -> None:
        planned = plan_cell(runners[i].loaded, prompts, registry.method("ddim"), 2)
        handles[i] = runners[i].make(planned)

    threads = [threading.Thread(target=go, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runners[0].new_shards + runners[1].new_shards == 6
    assert images(handles[0].store) == images(handles[1].store)
    assert len(images(handles[0].store)) == 24
    assert list((lab.cache / "claims").iterdir()) == []


def test_paired_scores_of_more_prompts_are_those_of_their_images(lab: Any):
    lab.run("small", images=4, **SMALL)
    lab.run("large", images=8, **SMALL)
    small, large = lab.cell("ddim", "small"), lab.cell("ddim", "large")
    name = next(n for n in small.feature_names(0) if n.endswith("-ssim"))
    assert np.array_equal(small.read_features(0, name), large.read_features(0, name))


def test_the_cache_names_shards_and_copies_nothing(lab: Any):
    lab.run("one", images=4, **SMALL)
    assert {f.suffix for f in Path(lab.cache / "shards").iterdir()} == {".json"}
