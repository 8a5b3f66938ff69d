"""Settings in a TOML file: every flag has a key, the plan prints an equal file."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import sunbench.bench
from sunbench.cli import app, main
from sunbench.cli.config import NO_KEY, key_of
from sunbench.cli.run import run as run_command


class Recorded(Exception):
    """Carries the request that the command line asks for."""


@pytest.fixture
def request_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The fields of the request that a command line makes; nothing is run."""
    monkeypatch.chdir(tmp_path)

    def fail(**fields: Any) -> None:
        raise Recorded(fields)

    def of(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sunbench.bench, "Request", fail)
        with pytest.raises(Recorded) as caught:
            app(["run", *words], standalone_mode=False)
        return caught.value.args[0]

    return of


FILE = """
models = ["emoji-3d", "emoji"]
methods = "ddim"
steps = [2, 4]
images = 12
seeds = [0, 7]
guidance = 2.5
floor = false
batch_size = 8
device = "cpu"
metrics = ["ssim", "fd[zoo-clip]"]
"""


def test_a_file_says_what_flags_say(request_of: Any, tmp_path: Path):
    (tmp_path / "run.toml").write_text(FILE)
    words = "--models emoji-3d,emoji --methods ddim --steps 2,4 --images 12 --seeds 0,7"
    words += " --guidance 2.5 --no-floor --batch-size 8 --device cpu --metrics ssim,fd[zoo-clip]"
    from_file = request_of("--config", "run.toml")
    assert from_file == request_of(*words.split())
    assert from_file["steps"] == (2, 4)
    assert from_file["guidance_scale"] == 2.5


def test_a_flag_overrides_the_file(request_of: Any, tmp_path: Path):
    (tmp_path / "run.toml").write_text(FILE)
    fields = request_of("--config", "run.toml", "--steps", "8", "--floor")
    assert (fields["steps"], fields["floor"], fields["images"]) == ((8,), True, 12)


def mistake(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", ["sunbench", "run", *words])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (2, "")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("method = 'ddim'", "unknown key of run.toml 'method'; did you mean 'methods'?"),
        ("images = 'many'", "given images 'many', expected a whole number"),
        ("images = 1e400", "given images 'inf', expected a whole number"),
        ("task = 'inpant'", "did you mean 'inpaint'?"),
        ("steps = [", "run.toml: expected TOML"),
        ("weights = 'sun'", "expected METHOD=PATH"),
        ("dry-run = true", "unknown key of run.toml 'dry-run'"),
        ("a = " + "[" * 5000, "run.toml: expected TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(
    text: str, line: str, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(text)
    assert line in mistake(["--config", "run.toml"], monkeypatch, capsys)


def test_no_file_and_a_folder_are_one_line(tmp_path: Path, monkeypatch: Any, capsys: Any):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.toml")
    for name in ("none.toml", ".", "fifo.toml"):
        assert f"given --config {name}" in mistake(["--config", name], monkeypatch, capsys)


def test_the_printed_file_asks_for_the_same(
    request_of: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    words = ["--models", 'a "b" [c]\\d', "--steps", "2,4", "--no-floor", "--guidance", "2.5"]
    words += ["--weights", "sun=a b=c.safetensors", "--out", "x/y", "--device", "cpu"]
    before = request_of(*words)
    monkeypatch.setattr(sunbench.bench, "Request", lambda **fields: fields)
    module = importlib.import_module("sunbench.cli.run")
    monkeypatch.setattr(module, "_print_plan", lambda request, folder: None)
    app(["run", *words, "--dry-run"], standalone_mode=False)
    text = capsys.readouterr().out
    assert tomllib.loads(text)["out"] == "x/y"
    (tmp_path / "same.toml").write_text(text)
    assert request_of("--config", "same.toml") == before


def test_what_was_not_given_is_not_in_the_printed_file(monkeypatch: Any, capsys: Any):
    module = importlib.import_module("sunbench.cli.run")
    monkeypatch.setattr(module, "_print_plan", lambda request, folder: None)
    app(["run", "--device", "cpu", "--dry-run"], standalone_mode=False)
    table = tomllib.loads(capsys.readouterr().out)
    assert table["methods"] == "ddim,dpm++"
    assert not {"weights", "prompts", "guidance", "metrics", "nfe"} & set(table)


def test_every_flag_has_a_key():
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    keys = [key_of(p) for p in command.params if p.name not in NO_KEY]
    assert len(set(keys)) == len(keys) > 20
    assert {"out", "batch-size", "models", "weights", "keep-images"} <= set(keys)
    assert run_command.__doc__
