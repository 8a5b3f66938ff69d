"""Flags of random values: every command works, or says in one line what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzzing import FLAG_JUNK, check, few
from hypothesis import given
from hypothesis import strategies as st

NAMES = ("ddim", "dpm++", "lcm", "sun", "ddim,ddim", "emoji", "ssim", "fd[", "fd[zoo-clip]", "cpu")
VALUES = st.sampled_from([*FLAG_JUNK, *NAMES])
RUN = ["--methods", "--steps", "--guidance", "--weights", "--images", "--seeds", "--prompts"]
RUN += ["--column", "--negatives", "--metrics", "--timing", "--task", "--strength", "--mask"]
RUN += ["--sources", "--controlnet", "--resolution", "--device", "--dtype", "--batch-size", "--out"]
RUN += ["--config", "--nfe"]


def flags(names: list[str]) -> Any:
    return st.lists(st.tuples(st.sampled_from(names), VALUES), min_size=1, max_size=3)


def words(pairs: list[tuple[str, str]]) -> list[str]:
    return [word for pair in pairs for word in pair]


def test_run(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    base = ["run", "--dry-run", "--models", str(lab.world.card), "--images", "4", "--steps", "1"]

    @few(20)
    @given(flags(RUN))
    def fuzz(pairs: list[tuple[str, str]]) -> None:
        check([*base, *words(pairs)])

    fuzz()


def test_negatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sunbench.studies.negative_prompts.measure", lambda *args: [])
    monkeypatch.setattr("sunbench.studies.negative_tables.write", lambda *args: None)
    names = ["--models", *RUN[:8], "--device", "--dtype", "--batch-size"]

    @few(30)
    @given(flags([n for n in names if n not in ("--column",)]))
    def fuzz(pairs: list[tuple[str, str]]) -> None:
        check(["negatives", *words(pairs)])

    fuzz()


def test_readers_of_a_run(done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = str(done.out / "run")
    commands = {
        ("pick", run): ["--max-latency-ms", "--max-distance", "--metric"],
        ("compare", run, run): ["--tolerances"],
        ("selftest", run): ["--model", "--images"],
        ("score", run, run): ["--prompts", "--metrics"],
    }

    @few(25)
    @given(st.data(), st.sampled_from(list(commands)))
    def fuzz(data: Any, command: tuple[str, ...]) -> None:
        pairs = data.draw(flags(commands[command]))
        if command[0] == "selftest":
            pairs += [("--model", "none such")]
        check([*command, *words(pairs)])

    fuzz()


def test_writers_of_a_run(done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = str(done.out / "run")
    commands = {
        ("board", run): ["--nfe", "--metric", "--out"],
        ("retention", run, run): ["--dose", "--metric", "--out"],
        ("export", run): ["--to"],
        ("merge", run, run): ["--out"],
    }

    @few(8)
    @given(st.data(), st.sampled_from(list(commands)))
    def fuzz(data: Any, command: tuple[str, ...]) -> None:
        check([*command, *words(data.draw(flags(commands[command])))])

    fuzz()


def test_places_that_are_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    one = ["report", "pick", "verify", "selftest", "verify --repair", "report --html"]
    two = ["compare", "score", "baseline save"]
    places = st.sampled_from([*FLAG_JUNK, "empty", "file", "file/below"])

    @few(120)
    @given(st.sampled_from([*one, *two]), places, places)
    def fuzz(command: str, a: str, b: str) -> None:
        assert check([*command.split(), "--", a, *([b] if command in two else [])]) == 2

    fuzz()


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Settings that no training can have; a good one is not begun."""
    monkeypatch.chdir(tmp_path)
    methods = st.sampled_from(["sun", "lcm", "boostdiff-bitfit", "ddim", "", "[/b]"])
    keys = ["updates", "batch", "rate", "betas", "seed", "accumulate", "ema", "x", ""]
    values = ["nan", "-1", "inf", "[0.9]", "1e20", "10" * 15, '"x"', "true", "[]", "{}", "="]

    @few(25)
    @given(methods, st.sampled_from(keys), st.sampled_from(values), st.booleans())
    def fuzz(method: str, key: str, value: str, loop: bool) -> None:
        Path("odd.toml").write_text(f"{'[loop]' * loop}\n{key} = {value}\n")
        words = ["--base", "no such model", "--config", "odd.toml", "--out", "out"]
        assert check(["train", method, *words]) == 2

    fuzz()


def test_lookups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    commands = ["list", "fetch --dry-run", "reference verify", "paper", "zoo check --images 0"]

    @few(30)
    @given(st.sampled_from(commands), st.sampled_from([*FLAG_JUNK, *NAMES]))
    def fuzz(command: str, word: str) -> None:
        check([*command.split(), "--", word])

    fuzz()
