"""Runs that leave their machine: exported with their references, merged, compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sunbench.bench.portable import export_run, merge_runs
from sunbench.bench.verify import verify_run
from sunbench.errors import UserError
from sunbench.regression.compare import compare
from sunbench.store import RunFolder

SMALL: dict[str, Any] = {"steps": (2,), "images": 8, "seeds": (0,), "timing": "none"}


def elsewhere(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("SUNBENCH_CACHE", str(root / "another-machine"))


def test_an_exported_run_needs_no_cache(done: Any, monkeypatch: pytest.MonkeyPatch):
    run, copy = done.out / "run", done.out / "copy"
    before = RunFolder(run).results_file.read_bytes()
    assert export_run(run, copy, references=True) == copy
    moved = Path(shutil.move(copy, done.out / "moved"))
    elsewhere(monkeypatch, done.out)
    assert verify_run(moved) == (4, [])
    assert RunFolder(moved).results_file.read_bytes() == before
    assert {v.verdict for v in compare(moved, moved).verdicts} == {"same"}
    problems = verify_run(run)[1]
    assert problems
    assert all("missing" in p for p in problems)


def test_export_into_the_run_itself(done: Any, monkeypatch: pytest.MonkeyPatch):
    run = done.out / "run"
    export_run(run, references=True)
    export_run(run, references=True)
    elsewhere(monkeypatch, done.out)
    assert verify_run(run) == (4, [])


def test_export_without_the_cache_says_so(done: Any, monkeypatch: pytest.MonkeyPatch):
    elsewhere(monkeypatch, done.out)
    with pytest.raises(UserError, match="name the cache that the run was made with"):
        export_run(done.out / "run", done.out / "copy", references=True)


def test_two_merged_runs_are_the_run_of_both(lab: Any):
    lab.run("a", methods=("ddim",), **SMALL)
    lab.run("b", methods=("dpm++",), **SMALL)
    lab.run("both", methods=("ddim", "dpm++"), **SMALL)
    merge_runs(lab.out / "a", lab.out / "b", lab.out / "merged")
    merged, both = (RunFolder(lab.out / n).read_results_document() for n in ("merged", "both"))
    assert merged.rows == both.rows
    assert merged.pairs == both.pairs
    assert merged.set_pairs == both.set_pairs
    assert verify_run(lab.out / "merged") == (4, [])


def test_runs_of_other_references_are_not_merged(lab: Any):
    lab.run("a", methods=("ddim",), **SMALL)
    lab.run("b", methods=("dpm++",), **{**SMALL, "images": 4})
    with pytest.raises(UserError, match="expected one reference"):
        merge_runs(lab.out / "a", lab.out / "b", lab.out / "merged")
    assert not (lab.out / "merged").exists()
