"""What is broken or edited in a run is named and sampled again; everything else stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sunbench.bench.repair import recorded_request, repair_run
from sunbench.bench.verify import verify_run
from sunbench.cli import app
from sunbench.errors import UserError
from sunbench.store import RunFolder


def stamps(lab: Any) -> dict[Path, int]:
    places = (lab.out / "run/cells", lab.cache / "reference_sets")
    files = [f for place in places for f in place.rglob("shard-*") if f.is_file()]
    return {f: f.stat().st_mtime_ns for f in files if not f.name.endswith(".broken")}


def touched(lab: Any, before: dict[Path, int]) -> set[str]:
    """Cell and shard of every stored file that was written anew."""
    after = stamps(lab)
    assert before.keys() <= after.keys()
    return {f"{f.parent.name} {f.name[:11]}" for f, t in after.items() if before.get(f) != t}


def rewrite(file: Path, change: Any) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_nothing_is_done_to_a_good_run(done: Any, monkeypatch: pytest.MonkeyPatch):
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("work began")

    monkeypatch.setattr("sunbench.bench.repair.execute", never)
    assert repair_run(done.out / "run") == []


def test_broken_shards_and_an_edited_cell_file_are_sampled_again(done: Any):
    tables, before = done.tables(), stamps(done)
    one, reference = done.cell("ddim"), done.reference()
    broken = [one.folder / "shard-00001.parquet", reference.folder / "shard-00003.json"]
    for file in broken:
        file.write_bytes(b"broken")
    rewrite(done.cell("dpm++").folder / "cell.json", lambda d: d["content"].update(steps=7))
    said = CliRunner().invoke(app, ["verify", str(done.out / "run"), "--repair"])
    assert said.exit_code == 0, said.output
    assert [line.split(": ")[0] for line in said.stdout.splitlines()[:3]] == ["Repaired"] * 3
    assert "every checksum, key, pairing and number is right" in said.stdout
    assert touched(done, before) == {
        f"{one.key} shard-00001",
        f"{reference.key} shard-00003",
    }
    assert done.tables() == tables


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["request"].update(images=4),
        lambda d: d["models"][0]["cells"][2].update(skip="no time"),
        lambda d: d["models"].clear(),
        lambda d: d.update(black_images=7),
        lambda d: d.pop("environment"),
    ],
)
def test_an_edited_run_json_is_written_again(done: Any, change: Any):
    expected = RunFolder(done.out / "run").read_run()
    before = stamps(done)
    rewrite(done.out / "run/run.json", change)
    repair_run(done.out / "run")
    mended = RunFolder(done.out / "run").read_run()
    assert (mended.request, mended.models) == (expected.request, expected.models)
    assert mended.black_images == 0
    assert touched(done, before) == set()
    assert verify_run(done.out / "run") == (4, [])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", None])
def test_results_that_are_gone_are_computed_again(done: Any, content: bytes | None):
    file = done.out / "run/results.json"
    rows = RunFolder(done.out / "run").read_results()
    file.unlink() if content is None else file.write_bytes(content)
    assert len(repair_run(done.out / "run")) == 1
    assert RunFolder(done.out / "run").read_results() == rows


def test_a_run_that_was_never_finished_is_repaired_by_its_run_json(done: Any):
    (done.out / "run/.sunbench-run").unlink()
    assert recorded_request(done.out / "run") == done.request()


def test_a_run_of_other_versions_is_left_alone(done: Any, monkeypatch: pytest.MonkeyPatch):
    next(done.cell("ddim").folder.glob("*.parquet")).write_bytes(b"broken")
    monkeypatch.setattr("sunbench.sampling.cell.VERSION", 99)
    with pytest.raises(UserError, match=r"dpm.* cannot be rebuilt: .* another --out"):
        repair_run(done.out / "run")
