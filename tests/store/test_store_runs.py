"""Run folders: documents with versions, bit-exact result rows, and who holds the lock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import result_row
from run_documents import ENVIRONMENT

from sunbench.errors import UserError
from sunbench.store import Holder, PairRow, ResultRow, Results, RunDocument, RunFolder
from sunbench.store.locks import holder, locked, seconds_since_boot

PAIR = PairRow("emoji", 4, "ssim", "ddim", "unipc", 0.6, 0.5, 0.7, 256)

numbers = st.floats(allow_nan=False, allow_infinity=False)


def row(**changes: Any) -> ResultRow:
    """A valid row, with changes."""
    values = {"model": "emoji", "metric": "fd[zoo-clip]", "feature_key": "0123abcd"}
    numbers = {"value": 1.5, "low": 1.0, "high": 2.0, "n": 256, "nfe": 8.0}
    return result_row(**{**values, **numbers, **changes})


def document(rows: Any) -> dict[str, Any]:
    """A results.json with these rows."""
    return Results(()).to_json() | {"rows": rows}


@st.composite
def rows(draw: st.DrawFn) -> ResultRow:
    low, high = sorted([draw(numbers), draw(numbers)])
    values: dict[str, Any] = {"value": draw(numbers), "low": low, "high": high}
    if draw(st.booleans()):
        values = {"value": None, "low": None, "high": None, "reason": draw(st.text(min_size=1))}
    return row(
        model=draw(st.text()),
        steps=draw(st.integers(0, 100)),
        n=draw(st.integers(0, 2**63 - 1)),
        nfe=draw(st.none() | st.floats(0, 1e6)),
        **values,
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(rows(), max_size=5, unique_by=lambda r: r.place))
def test_rows_come_back_to_the_bit(given_rows: list[ResultRow]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        run.write_results(Results(tuple(given_rows), (PAIR,)))
        first = run.results_file.read_bytes()
        stored = run.read_results()
        assert stored == given_rows
        assert run.read_results_document().pairs == (PAIR,)
        assert [str(r) for r in stored] == [str(r) for r in given_rows]
        run.write_results(Results(tuple(stored), (PAIR,)))
        assert run.results_file.read_bytes() == first
        assert json.loads(first)["schema_version"] == 3


def rows_or_line(run: RunFolder) -> list[ResultRow] | str:
    """What is in the file, or what a user is told; any other error goes through."""
    try:
        return run.read_results()
    except UserError as error:
        return str(error)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_results_are_rows_or_one_clear_line(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.write_results(Results((row(), row(steps=2))))
        content = bytearray(run.results_file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=4))
        run.results_file.write_bytes(content)
        outcome = rows_or_line(run)
    if isinstance(outcome, str):
        assert "\n" not in outcome
    else:
        assert all(isinstance(r, ResultRow) for r in outcome)


def test_results_cut_anywhere_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_results(Results((row(),)))
    content = run.results_file.read_bytes()
    for length in range(len(content) - 1):
        run.results_file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"results\.json is broken or cut short"):
            run.read_results()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": float("nan")}, "given value nan, expected a finite number"),
        ({"high": float("inf")}, "given high inf"),
        ({"value": None}, "expected one of the two"),
        ({"reason": "and a reason"}, "expected one of the two"),
        ({"value": None, "reason": "no weights"}, "expected an interval"),
        ({"low": None}, "expected an interval"),
        ({"low": 3.0}, "expected an interval"),
    ],
)
def test_impossible_rows_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        row(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": "1.5"}, "rows[0], value: given '1.5', expected float"),
        ({"steps": 4.0}, "rows[0], steps: given 4.0, expected int"),
        ({"steps": 10**30}, "rows[0], steps: given 1000000000000000000000000000000, expected an"),
        ({"n": True}, "rows[0], n: given True, expected int"),
        ({"model": None}, "rows[0], model: given None, expected text"),
        ({"model": "\ud800"}, "rows[0], model: given '\\ud800', expected text in UTF-8"),
        ({"role": "floors"}, "rows[0], role: given 'floors', expected one of 'candidate', 'refe"),
        ({"value": 10**400}, "expected a finite number"),
        ({"extra": 1}, "rows[0]: given unknown extra"),
        ({"low": 3.0}, "rows[0]: fd[zoo-clip] of ddim at 4 steps on emoji: given value"),
    ],
)
def test_rows_of_the_wrong_type_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Results.from_json(document([row().to_json() | changes]), "results.json")
    assert said in str(caught.value)


def test_missing_fields_are_named() -> None:
    lacking = {k: v for k, v in row().to_json().items() if k != "nfe"}
    for rows, words in (
        ([lacking], "given no nfe; expected model, method"),
        ([3], "expected an object"),
        ({}, "expected a list"),
    ):
        with pytest.raises(UserError, match=words):
            Results.from_json(document(rows), "r")
    with pytest.raises(UserError, match="given no rows, no pairs"):
        Results.from_json({"schema_version": 3}, "r")


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_results(Results((row(),), (replace(PAIR, low=float("nan")),)))
    run.results_file.write_text('{"schema_version": 3, "rows": [], "floor": NaN}')
    with pytest.raises(UserError, match="NaN is not a number"):
        run.read_results()


def test_two_rows_in_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="given two rows of fd"):
        RunFolder(tmp_path).write_results(Results((row(), row(value=1.6))))


@pytest.mark.parametrize("version", [0, 2, 4, "3", True, None])
def test_other_versions_are_refused(tmp_path: Path, version: object) -> None:
    run = RunFolder(tmp_path)
    run.run_file.write_text(json.dumps({"schema_version": version}))
    with pytest.raises(UserError, match="expected 3"):
        run.read_run()


def test_what_is_not_a_run_is_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "none")
    with pytest.raises(UserError, match=r"results\.json is missing"):
        run.read_results()
    written = RunDocument({"models": ["emoji"]}, ENVIRONMENT, ())
    run.write_run(written)
    assert run.read_run() == written
    with pytest.raises(UserError, match="was not finished; run it again to resume"):
        run.read_results()


def test_cells_have_their_own_folders(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    one, two = run.cell({"steps": 1}), run.cell({"steps": 2})
    assert one.folder == tmp_path / "cells" / one.key
    assert one.folder != two.folder
    assert run.cell({"steps": 1}).folder == one.folder


# ------------------------------------------------------------------------------ locks


@pytest.fixture
def other_pid() -> Any:
    """A living process that is not this one."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def _holder_of(pid: int) -> Holder:
    import psutil

    return Holder(pid, socket.gethostname(), seconds_since_boot(psutil.Process(pid)))


def _lock(path: Path, by: Holder) -> None:
    path.write_text(json.dumps({"pid": by.pid, "host": by.host, "started": by.started}))


def test_lock_is_held_and_given_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock():
        held = run.holder()
        assert held is not None
        assert held.pid == os.getpid()
        run.write_results(Results((row(),)))
        assert run.read_results() == [row()]
        with pytest.raises(UserError, match="still going"), run.lock():
            pytest.fail("a held lock was given twice")
        assert run.holder() == held
    assert run.holder() is None
    assert sorted(f.name for f in run.path.iterdir()) == ["results.json"]


def test_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError("x")
    assert holder(tmp_path / "lock") is None


def test_living_process_keeps_the_run(tmp_path: Path, other_pid: int) -> None:
    run = RunFolder(tmp_path)
    run.write_results(Results((row(),)))
    _lock(tmp_path / "lock", _holder_of(other_pid))
    for read in (run.read_results, run.require_finished, run.lock().__enter__):
        with pytest.raises(UserError, match=f"still going \\(process {other_pid} on"):
            read()


def test_lock_of_another_host_is_believed(tmp_path: Path) -> None:
    _lock(tmp_path / "lock", Holder(1, "elsewhere", 0.0))
    with (
        pytest.raises(UserError, match=r"process 1 on elsewhere\).*delete .*lock"),
        locked(tmp_path / "lock"),
    ):
        pytest.fail("another host's lock was taken")


@pytest.mark.parametrize("pid", ["-1", "Infinity", "1e400", str(2**70), "[" * 100_000])
def test_nonsense_in_a_lock_is_stale(tmp_path: Path, pid: str) -> None:
    lock, host = tmp_path / "lock", json.dumps(socket.gethostname())
    lock.write_text(f'{{"pid": {pid}, "host": {host}, "started": 0}}')
    with locked(lock):
        assert (by := holder(lock)) is not None
        assert by.is_me


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_one_line(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "lock")
    with pytest.raises(UserError, match="which is no file"), locked(tmp_path / "lock"):
        pytest.fail("a folder or a FIFO was taken for a free lock")


def test_a_step_of_the_clock_takes_over_no_living_lock(
    tmp_path: Path, other_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's clock moves the start of every process and of the machine alike."""
    import psutil

    _lock(tmp_path / "lock", _holder_of(other_pid))
    boot, create = psutil.boot_time(), psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create(self) + 3600)
    with pytest.raises(UserError, match="still going"), locked(tmp_path / "lock"):
        pytest.fail("a living lock was taken over")


def test_stale_locks_are_taken_over(tmp_path: Path, other_pid: int) -> None:
    """A dead process, a number used again by a younger process, and a lock cut short."""
    lock = tmp_path / "lock"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    dead = _holder_of(ended.pid)
    ended.wait()
    young = _holder_of(other_pid)
    _lock(lock, dead)
    stale = [lock.read_bytes(), b"", b"{"]
    _lock(lock, Holder(young.pid, young.host, young.started - 1000))
    stale.append(lock.read_bytes())
    for content in stale:
        lock.write_bytes(content)
        assert holder(lock) is None
        with locked(lock):
            held = holder(lock)
            assert held is not None
            assert held.is_me
        assert not list(tmp_path.iterdir())
