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
from sunbench.bench.reduce import Reducer, cell_features
from sunbench.bench.verify import verify_run
from sunbench.errors import NotAvailable, UserError
from sunbench.methods.ddim import ddim
from sunbench.metrics.registry import find_metric
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


def edit_results(folder: Path, change: Any) -> None:
    file = folder / "results.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def of_metric(records: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    return next(r for r in records if r["metric"] == metric and r.get("role") != "floor")


def test_verify_computes_paired_values_again(done: Any):
    def halve(document: dict[str, Any]) -> None:
        row = of_metric([r for r in document["rows"] if r["role"] == "candidate"], "ssim")
        row.update(value=row["value"] / 2, low=0.0, high=1.0)

    edit_results(done.out / "run", halve)
    _, problems = verify_run(done.out / "run")
    assert [p for p in problems if "ssim of" in p], problems


@pytest.mark.parametrize(
    ("part", "metric", "field", "change", "problem"),
    [
        ("rows", "fd[zoo-clip]", "value", 0.1, "fd[zoo-clip] of ddim at 2 steps on tiny: given v"),
        ("rows", "fd[zoo-clip]", "high", 0.5, "fd[zoo-clip] of ddim at 2 steps on tiny: given h"),
        ("rows", "fd[zoo-clip]", "relative_low", -0.01, "given relative_low"),
        ("rows", "kid[zoo-clip]", "low", -0.1, "kid[zoo-clip] of ddim at 2 steps on tiny: given l"),
        ("rows", "clip_score[zoo-clip]", "low", -0.5, "clip_score[zoo-clip] of the reference"),
        ("rows", "psnr", "nfe", 1, "psnr of ddim at 2 steps on tiny: given nfe"),
        ("pairs", "ssim", "a_closer", 0.01, "ssim: given a_closer"),
        ("pairs", "psnr", "p_adjusted", 0.01, "psnr: given p_adjusted"),
        ("set_pairs", "fd[zoo-clip]", "difference", 0.1, "fd[zoo-clip]: given difference"),
        ("finite_n", "fd[zoo-clip]", "infinity", 0.1, "fd[zoo-clip]: given infinity"),
    ],
)
def test_verify_computes_every_number_again(
    done: Any, part: str, metric: str, field: str, change: float, problem: str
):
    def edit(document: dict[str, Any]) -> None:
        row = of_metric(document[part], metric)
        row[field] = type(row[field])(row[field] + change)

    edit_results(done.out / "run", edit)
    _, problems = verify_run(done.out / "run")
    assert len(problems) == 1, problems
    assert problem in problems[0]


def test_verify_finds_rows_that_are_not_there_and_rows_too_many(done: Any):
    def drop_and_add(document: dict[str, Any]) -> None:
        row = of_metric(document["rows"], "psnr")
        document["rows"].remove(row)
        document["pairs"].append(document["pairs"][0] | {"a": "sun"})

    edit_results(done.out / "run", drop_and_add)
    _, problems = verify_run(done.out / "run")
    assert [p.split(" is not in ")[1] for p in problems] == ["results.json", "the run's cells"]


def test_verify_finds_a_speed_up_that_its_seconds_do_not_give(done: Any):
    def brag(document: dict[str, Any]) -> None:
        row = next(r for r in document["timing"] if r["role"] == "candidate")
        row["speed_up"] = [2 * x for x in row["speed_up"]]
        row["flags"] = [*row["flags"], "hand-written"]

    edit_results(done.out / "run", brag)
    _, problems = verify_run(done.out / "run")
    assert ["given speed_up" in problems[0], "given flags" in problems[1]] == [True, True]


def test_verify_counts_black_images_again(done: Any):
    file = done.out / "run/run.json"
    file.write_text(file.read_text().replace('"black_images": 0', '"black_images": 3'))
    _, problems = verify_run(done.out / "run")
    assert problems == ["run.json: given 3 black images, the shards hold 0"]


def test_verify_finds_cells_that_are_said_to_be_skipped(done: Any):
    def skip_all(cells: list[dict[str, Any]]) -> None:
        for cell in cells[1:]:
            cell["skip"] = "no time"

    edit_run(done.out / "run", skip_all)
    _, problems = verify_run(done.out / "run")
    assert any("given reason None, the stored cells give no time" in p for p in problems)


def test_verify_does_without_the_network_of_the_prompts(
    done: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def absent(name: str, device: str) -> Any:
        raise NotAvailable("not here")

    monkeypatch.setattr("sunbench.bench.recompute.load_network", absent)
    assert verify_run(done.out / "run") == (4, [])
    assert "clip_score[zoo-clip] is not computed again: not here" in caplog.text


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


@pytest.mark.parametrize("role", ["reference", "floor", "candidate"])
def test_verify_finds_an_edited_cell_of_any_role(done: Any, role: str):
    def other(cells: list[dict[str, Any]]) -> None:
        cell = next(c for c in cells if c["role"] == role)
        cell["content"]["guidance_scale"] = 1.5

    edit_run(done.out / "run", other)
    _, problems = verify_run(done.out / "run")
    assert [p for p in problems if "its key is not that of its content" in p], problems


def test_verify_finds_an_edited_cell_file_of_the_floor(done: Any):
    file = done.reference(floor=True).folder / "cell.json"
    document = json.loads(file.read_text())
    document["content"]["seeds"] = [0, 1]
    file.write_text(json.dumps(document))
    _, problems = verify_run(done.out / "run")
    assert len(problems) == 1
    assert "they differ in seeds" in problems[0]


def test_verify_wants_a_finished_run(done: Any):
    (done.out / "run/results.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        verify_run(done.out / "run")


# ------------------------------------------------------------------------------ equal N


def cell_of(folder: Path, like: Any, n: int) -> CellHandle:
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
    six, eight = (cell_of(tmp_path, done.cell(), n) for n in (6, 8))
    choice = find_metric(metric)
    network = SimpleNamespace(key="k" * 20, protocol="")
    reducer = Reducer(FeatureExtractors((choice,), {"zoo-clip": network}), six, ["a cat"] * 6)
    assert reducer.measured(six, choice).value.n == 6
    with pytest.raises(UserError, match="different N are never compared"):
        reducer.measured(eight, choice)


def test_a_cell_with_too_few_images_is_refused(done: Any, tmp_path: Path):
    whole = cell_of(tmp_path, done.cell(), 8)
    claims = replace(whole.planned, cell=replace(whole.cell, n_prompts=7))
    with pytest.raises(UserError, match="8 images, expected 7"):
        cell_features(CellHandle(claims, whole.store), "embed-zoo-clip-kkkkkkkk")
    with pytest.raises(UserError, match="feature 'other' is missing"):
        cell_features(whole, "other")
