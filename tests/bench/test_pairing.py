"""Nothing is compared with what it does not belong to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sunbench.bench.cells import PlannedCell
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.handles import CellHandle
from sunbench.bench.reduce import Reducer, gather
from sunbench.bench.verify import verify_run
from sunbench.errors import UserError
from sunbench.methods.ddim import ddim
from sunbench.metrics.registry import find
from sunbench.prompts import Prompt, PromptSet
from sunbench.sampling import Cell
from sunbench.store import CellStore, ShardRow


def permute(store: CellStore) -> None:
    """Give shard 0 the noise hashes of its own images in another order."""
    rows = store.read_rows(0, images=True)
    features = {n: store.read_features(0, n) for n in store.feature_names(0)}
    shifted = [rows[(i + 1) % len(rows)].noise_hash for i in range(len(rows))]
    store.write_shard(
        0, [replace(r, noise_hash=h) for r, h in zip(rows, shifted, strict=True)], features
    )


def test_permuted_reference_is_refused(done: Any):
    permute(done.reference())
    shutil.rmtree(done.cell("ddim").folder)
    with pytest.raises(
        UserError, match=r"ddim.*image 0: prompt .* from noise .*, expected its ref"
    ):
        done.run()


def test_verify_finds_nothing_wrong_with_a_good_run(done: Any):
    assert verify_run(done.out / "run") == (4, [])


def test_verify_finds_a_permuted_reference(done: Any):
    permute(done.reference())
    checked, problems = verify_run(done.out / "run")
    assert checked == 4
    assert len(problems) == 2
    assert all("from noise" in p for p in problems)


def test_verify_lists_everything_and_writes_nothing(done: Any):
    for store in (done.reference(), done.cell("ddim")):
        next(store.folder.glob("shard-00001.parquet")).write_bytes(b"broken")
    (done.cell("dpm++").folder / "cell.json").write_bytes(b"{")
    files = sorted(f for f in done.cache.parent.rglob("*") if f.is_file())
    before = {f: f.read_bytes() for f in files}
    checked, problems = verify_run(done.out / "run")
    assert checked == 4
    assert len(problems) == 3, problems
    assert {f: f.read_bytes() for f in done.cache.parent.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda models: models.clear(), "no models"),
        (lambda models: models[0]["cells"].pop(0), "has no sampled reference"),
        (lambda models: models[0]["cells"][0].update(skip="x"), "has no sampled reference"),
        (lambda models: models[0]["weights"].update(unet="0" * 64), "weights are not those of"),
    ],
)
def test_verify_refuses_a_run_without_sense(done: Any, change: Any, problem: str):
    file = done.out / "run/run.json"
    document = json.loads(file.read_text())
    change(document["models"])
    file.write_text(json.dumps(document))
    _, problems = verify_run(done.out / "run")
    assert any(problem in p for p in problems), problems


def test_verify_computes_paired_values_again(done: Any):
    file = done.out / "run/results.json"
    document = json.loads(file.read_text())
    row = next(r for r in document["rows"] if r["metric"] == "ssim" and r["role"] == "candidate")
    row.update(value=row["value"] / 2, low=0.0, high=1.0)
    file.write_text(json.dumps(document))
    _, problems = verify_run(done.out / "run")
    assert [p for p in problems if "ssim of" in p], problems


@pytest.mark.parametrize("pattern", ["*.parquet", "*.cost.safetensors", "shard-00003.json"])
def test_verify_finds_a_flipped_byte(done: Any, pattern: str):
    file = sorted(done.cell("dpm++").folder.glob(pattern))[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(bytes(data))
    shard = int(file.name[6:11])
    checked, problems = verify_run(done.out / "run")
    assert checked == 4
    assert problems == [f"tiny · dpm++ · 2 steps: shard {shard} is missing or broken"]


def test_verify_finds_a_missing_cell(done: Any):
    store = done.cell("ddim")
    shutil.rmtree(store.folder)
    assert verify_run(done.out / "run") == (4, [f"{store.key}: the cell's folder is missing"])


def edit_run(folder: Path, change: Any) -> None:
    file = folder / "run.json"
    document = json.loads(file.read_text())
    change(document["models"][0]["cells"])
    file.write_text(json.dumps(document))


def test_verify_finds_a_wrong_key(done: Any):
    def rename(cells: list[dict[str, Any]]) -> None:
        cells[0]["key"] = "0" * 20

    edit_run(done.out / "run", rename)
    checked, problems = verify_run(done.out / "run")
    assert checked == 4
    assert any("its key is not that of its content" in p for p in problems)


def test_verify_finds_content_that_was_changed(done: Any):
    def more_steps(cells: list[dict[str, Any]]) -> None:
        cells[-1]["skip"] = None
        cells[2]["content"]["steps"] = 8

    edit_run(done.out / "run", more_steps)
    checked, problems = verify_run(done.out / "run")
    assert any("its key is not that of its content" in p for p in problems)
    assert checked == 5


def test_verify_wants_a_finished_run(done: Any):
    (done.out / "run/results.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        verify_run(done.out / "run")


# ------------------------------------------------------------------------------ equal N


def made(folder: Path, like: Any, n: int) -> CellHandle:
    """A cell of n images with a feature of the network called "zoo-clip"."""
    cell = replace(Cell.from_content(like.content), n_prompts=n, seeds=(0,))
    store = CellStore(folder / str(n), cell.content())
    rng = np.random.default_rng(n)
    for k in range(cell.shards):
        rows = [ShardRow(i, f"p{i}", 0, "a cat", "", "00") for i in cell.shard(k)]
        store.write_shard(k, rows, {"embed-zoo-clip-kkkkkkkk": rng.normal(size=(len(rows), 3))})
    prompts = PromptSet("rows", tuple(Prompt(f"p{i}", "a cat") for i in range(n)), "", "")
    return CellHandle(PlannedCell("candidate", cell, prompts, ddim()), store)


@pytest.mark.parametrize("metric", ["fd[zoo-clip]", "kid[zoo-clip]", "cos[zoo-clip]"])
def test_different_n_are_refused(done: Any, tmp_path: Path, metric: str):
    six, eight = (made(tmp_path, done.cell(), n) for n in (6, 8))
    choice = find(metric)
    network = SimpleNamespace(key="k" * 20, protocol="")
    reducer = Reducer(FeatureExtractors((choice,), {"zoo-clip": network}), six, ["a cat"] * 6)
    assert reducer.measured(six, choice).value.n == 6
    with pytest.raises(UserError, match="different N are never compared"):
        reducer.measured(eight, choice)


def test_a_cell_with_too_few_images_is_refused(done: Any, tmp_path: Path):
    whole = made(tmp_path, done.cell(), 8)
    claims = replace(whole.planned, cell=replace(whole.cell, n_prompts=7))
    with pytest.raises(UserError, match="8 images, expected 7"):
        gather(CellHandle(claims, whole.store), "embed-zoo-clip-kkkkkkkk")
    with pytest.raises(UserError, match="feature 'other' is missing"):
        gather(whole, "other")
