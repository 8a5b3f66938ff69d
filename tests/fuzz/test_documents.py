"""Every document of a run, edited at random: whoever reads it says in one line what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzzing import check, edits, expect_user_errors, few
from hypothesis import given
from hypothesis import strategies as st

from sunbench.bench.repair import recorded_request
from sunbench.bench.run import execute
from sunbench.store import CellStore

READERS = [["report"], ["report", "--cards"], ["pick"], ["pick", "--max-latency-ms", "5"]]
READERS += [["pick", "--max-distance", "0.1", "--json"]]
DOCUMENTS = ["results.json", "run.json"]


def edited(data: Any, file: Path) -> bytes:
    """Write a random edit of a JSON file over it; what it held before."""
    before = file.read_bytes()
    file.write_text(json.dumps(data.draw(edits(json.loads(before)))), "ascii")
    return before


@pytest.mark.parametrize("document", DOCUMENTS)
def test_reports_and_picks(done: Any, document: str):
    file = done.out / "run" / document

    @few(25)
    @given(st.data(), st.sampled_from(READERS))
    def fuzz(data: Any, command: list[str]) -> None:
        before = edited(data, file)
        try:
            check([command[0], str(done.out / "run"), *command[1:]])
        finally:
            file.write_bytes(before)

    fuzz()


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("command", ["page", "figures", "verify", "baseline", "selftest"])
def test_slower_readers(done: Any, document: str, command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sunbench.studies.selftest_run.selftest", lambda *args, **kwargs: NOTHING)
    run, file = str(done.out / "run"), done.out / "run" / document
    words = {
        "page": ["report", run, "--html"],
        "figures": ["report", run, "--figures"],
        "verify": ["verify", run],
        "baseline": ["baseline", "save", run, str(done.out / "saved")],
        "selftest": ["selftest", run],
    }

    @few(1 if command == "figures" else 4)
    @given(st.data())
    def fuzz(data: Any) -> None:
        before = edited(data, file)
        try:
            check(words[command])
        finally:
            file.write_bytes(before)

    fuzz()


class Nothing:
    """A self-test without results."""

    def uncaught(self) -> list[str]:
        return []

    def markdown(self) -> str:
        return ""


NOTHING = Nothing()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_comparisons_with_an_edited_baseline(done: Any, document: str):
    run, light = done.out / "run", done.out / "light"
    assert check(["baseline", "save", str(run), str(light)]) == 0
    file = light / document

    @few(8)
    @given(st.data(), st.booleans())
    def fuzz(data: Any, reverse: bool) -> None:
        before = edited(data, file)
        try:
            check(["compare", *([str(run), str(light)] if reverse else [str(light), str(run)])])
        finally:
            file.write_bytes(before)

    fuzz()


@pytest.mark.parametrize("name", ["run.json", "results.json", ".sunbench-run", "cell.json"])
def test_a_run_that_is_given_again(done: Any, name: str, monkeypatch: pytest.MonkeyPatch):
    """It heals or it says what is wrong; its shards are not sampled again."""
    monkeypatch.setattr("sunbench.bench.runner.generate", _never)
    folder = done.cell("ddim").folder if name == "cell.json" else done.out / "run"
    file = folder / name

    @few(2)
    @given(st.data())
    def fuzz(data: Any) -> None:
        before = edited(data, file)
        try:
            expect_user_errors(lambda: execute(done.request(), done.out / "run"))
        finally:
            file.write_bytes(before)

    fuzz()


def _never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a whole shard was sampled again")


def test_the_request_of_a_marker(done: Any):
    file = done.out / "run/.sunbench-run"

    @few(25)
    @given(st.data())
    def fuzz(data: Any) -> None:
        before = edited(data, file)
        try:
            expect_user_errors(lambda: recorded_request(done.out / "run"))
        finally:
            file.write_bytes(before)

    fuzz()


def test_manifests_and_cell_files_of_a_store(done: Any, tmp_path: Path):
    source = done.cell("ddim").folder

    @few(25)
    @given(st.data(), st.sampled_from(["cell.json", "shard-00000.json"]), st.booleans())
    def fuzz(data: Any, name: str, repair: bool) -> None:
        folder = tmp_path / source.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        edited(data, folder / name)

        def read() -> None:
            store = CellStore.open(folder, repair=repair)
            for k in store.shards():
                if store.has_shard(k):
                    store.read_rows(k)

        try:
            expect_user_errors(read)
        finally:
            shutil.rmtree(folder)

    fuzz()


def test_per_image_scores_of_a_baseline(done: Any):
    run, light = done.out / "run", done.out / "light"
    assert check(["baseline", "save", str(run), str(light)]) == 0
    file = light / "per_image.safetensors"
    whole = file.read_bytes()

    @few(8)
    @given(st.integers(0, len(whole) - 1), st.binary(max_size=40))
    def fuzz(at: int, junk: bytes) -> None:
        file.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
        assert check(["compare", str(light), str(run)]) in (0, 1, 2)

    fuzz()
