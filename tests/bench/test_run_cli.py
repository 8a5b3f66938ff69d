"""run, report and verify on a finished run, as typed."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sunbench.cli import main


@pytest.fixture
def sunbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sunbench", *words])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run


def options(done: Any) -> list[str]:
    words = ["run", "--models", str(done.world.card), "--methods", "ddim,dpm++"]
    words += ["--steps", "2,1001", "--images", "20", "--seeds", "2", "--batch", "4"]
    return [*words, "--device", "cpu", "--out", str(done.out / "run")]


def test_run_prints_plan_and_tables(done: Any, sunbench: Any, monkeypatch: pytest.MonkeyPatch):
    before = done.tables()
    (done.out / "run/.sunbench-run").unlink()  # without it the run is planned again
    code, out, err = sunbench(*options(done))
    assert (code, err) == (0, "")
    assert "240 U-Net evaluations" in out.replace(",", "") or "U-Net evaluations" in out
    for word in ("tiny", "ddim", "dpm++", "reference", "fd", "1001 steps asked", "Tables:"):
        assert word in out
    assert done.tables() == before


def test_a_finished_run_is_read_and_not_executed(
    done: Any, sunbench: Any, monkeypatch: pytest.MonkeyPatch
):
    assert sunbench(*options(done))[0] == 0  # whole, whatever an earlier test took away
    before = done.tables()
    monkeypatch.setattr("sunbench.bench.run.execute", None)
    code, out, err = sunbench(*options(done), "--workers", "auto")
    assert (code, err) == (0, "")
    assert "Tables:" in out
    assert done.tables() == before
    code, _, err = sunbench(*options(done), "--workers", "nine")
    assert code == 2
    assert "given workers 'nine'" in err


def test_a_folder_with_markup_in_its_name(done: Any, sunbench: Any):
    """It once crashed after everything was sampled."""
    folder = done.out / "a[/b]c"
    folder.parent.mkdir(parents=True)
    (done.out / "run").rename(folder)
    for words in ([*options(done)[:-1], str(folder)], ["report", str(folder)]):
        code, out, err = sunbench(*words)
        assert (code, err) == (0, "")
        assert "ddim" in out
    assert "a[/b]c" in sunbench(*options(done)[:-1], str(folder))[1]


def test_report_writes_the_tables_again(done: Any, sunbench: Any):
    before = done.tables()
    for file in (done.out / "run/tables").iterdir():
        file.unlink()
    code, out, _ = sunbench("report", str(done.out / "run"))
    assert code == 0
    assert "ddim" in out
    assert done.tables() == before


def test_verify_says_so_and_exits_with_1_when_a_shard_is_broken(done: Any, sunbench: Any):
    folder = str(done.out / "run")
    code, out, _ = sunbench("verify", folder)
    assert (code, out) == (0, "4 cells checked: every checksum, key, pairing and number is right\n")
    next(done.cell("ddim").folder.glob("shard-00000.parquet")).write_bytes(b"x")
    code, _, err = sunbench("verify", folder)
    assert code == 1
    assert "shard 0 is missing or broken" in err


def test_verify_of_a_permuted_pair_is_one_line(done: Any, sunbench: Any):
    store = done.cell("ddim")
    rows = store.read_rows(0, images=True)
    features = {n: store.read_features(0, n) for n in store.feature_names(0)}
    from dataclasses import replace

    store.write_shard(0, [replace(rows[0], noise_hash="0" * 16), *rows[1:]], features)
    code, _, err = sunbench("verify", str(done.out / "run"))
    assert code == 1
    assert err.count("\n") == 1
    assert "from noise 0000000000000000" in err


def test_reference_list_and_verify(done: Any, sunbench: Any):
    code, out, _ = sunbench("reference", "list")
    assert code == 0
    assert "tiny" in out
    assert "floor" in out
    code, out, _ = sunbench("reference", "verify")
    assert (code, out) == (
        0,
        "2 reference sets checked: every checksum, key and pairing is right\n",
    )
