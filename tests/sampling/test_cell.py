"""What a cell is: its images, its shards, its content key."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sunbench.sampling.cell
from sunbench.sampling import Cell
from sunbench.store import key

CELL = Cell(
    model="tiny",
    weights=(("unet", "aa"), ("vae", "bb")),
    method="ddim",
    method_content=(("guidance", "cfg"), ("solver", "DDIM")),
    steps=4,
    guidance_scale=3.0,
    task="text2image",
    prompts="words",
    prompts_hash="cc",
    n_prompts=5,
    seeds=(0, 7),
    resolution=16,
    dtype="float32",
)
CHANGES = {
    "model": "other",
    "weights": (("unet", "ab"), ("vae", "bb")),
    "method": "dpm++",
    "method_content": (("guidance", "cfg"), ("solver", "DDIM trailing")),
    "steps": 5,
    "guidance_scale": 3.5,
    "task": "inpaint",
    "prompts": "other",
    "prompts_hash": "cd",
    "n_prompts": 6,
    "seeds": (7, 0),
    "resolution": 24,
    "dtype": "float16",
    "task_content": (("mask", "left"), ("sources", "dd"), ("strength", 0.5)),
}


@given(st.integers(1, 2000), st.integers(1, 5))
def test_shards_cover_every_image_once_each_at_one_seed(n_prompts: int, seeds: int):
    cell = replace(CELL, n_prompts=n_prompts, seeds=tuple(range(seeds)))
    indices = [i for k in range(cell.shards) for i in cell.shard(k)]
    assert sorted(indices) == list(range(n_prompts * seeds))
    assert all(len(cell.shard(k)) == 250 for k in range(cell.shards - seeds))
    for k in range(cell.shards):
        assert len({i % seeds for i in cell.shard(k)}) == 1
        assert [cell.layout.place(i) for i in cell.shard(k)] == [
            (k, row) for row in range(len(cell.shard(k)))
        ]


def test_every_field_but_the_batch_is_in_the_key():
    assert {f.name for f in fields(Cell)} == {*CHANGES, "batch"}
    assert key(replace(CELL, batch=8).content()) == key(CELL.content())


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_gives_another_key(name: str):
    assert key(replace(CELL, **{name: CHANGES[name]}).content()) != key(CELL.content())


@pytest.mark.parametrize(("name", "value"), [("VERSION", 99), ("SHARD_SIZE", 8)])
def test_code_version_and_shard_size_are_in_the_key(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
):
    before = key(CELL.content())
    monkeypatch.setattr(sunbench.sampling.cell, name, value)
    assert key(CELL.content()) != before


def test_diffusers_version_is_in_the_key(monkeypatch: pytest.MonkeyPatch):
    before = key(CELL.content())
    monkeypatch.setattr("diffusers.__version__", "0.1")
    assert key(CELL.content()) != before


def test_a_tasks_own_settings_are_in_the_key_and_text2image_has_none():
    """What was stored before there were tasks keeps its key."""
    assert "task_settings" not in CELL.content()
    paint = replace(CELL, task="inpaint", task_content=CHANGES["task_content"])
    assert paint.content()["task_settings"] == {"mask": "left", "sources": "dd", "strength": 0.5}
    assert (paint.strength, CELL.strength) == (0.5, 1.0)
    assert Cell.from_content(json.loads(json.dumps(paint.content()))) == paint


def test_content_survives_json_and_gives_the_cell_back():
    content = json.loads(json.dumps(CELL.content()))
    assert key(content) == key(CELL.content())
    assert Cell.from_content(content) == CELL
