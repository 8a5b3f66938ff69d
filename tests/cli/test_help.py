"""Help of every command: it fits 80 columns, loses no brackets; mistakes are one line."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from sunbench.cli import app, console, main


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = typer.main.get_command(app) if command is None else command
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


ALL = list(commands())


@pytest.fixture
def sunbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sunbench", *words])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


@pytest.mark.parametrize("path", ALL, ids=lambda p: " ".join(p) or "sunbench")
def test_help_fits_80_columns(path: tuple[str, ...], sunbench: Any, monkeypatch: Any):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = sunbench(*path, "-h")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out  # nothing is cut


def test_brackets_of_the_help_stay(sunbench: Any):
    _, out, _ = sunbench("train", "-h")
    assert out.count("[loop]") == 2
    for words in (["zoo"], ["zoo", "goodhart"]):
        assert "fd[zoo-clip]" in sunbench(*words, "-h")[1]


def test_options_stand_in_panels(sunbench: Any):
    _, out, _ = sunbench("run", "-h")
    for panel in ("What to compare", "Prompts and noise", "Task", "Machine", "Files"):
        assert f"─ {panel} ─" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rum"], "Did you mean 'run'?"),
        (["run", "--imges", "3"], "--images"),
        (["run", "--images", "1_0"], "given images '1_0', expected a whole number"),
        (
            ["run", "--images", "\u0661\u0660"],
            "given images '\u0661\u0660', expected a whole number",
        ),
        (["run", "--images", "1" * 40], "expected a whole number"),
        (["run", "--guidance", "nan"], "given guidance 'nan', expected a number"),
        (["run", "--guidance", "1_0"], "given guidance '1_0', expected a number"),
        (["run", "--steps", "1_0"], "given steps '1_0', expected whole numbers like 4,8"),
        (["run", "--steps", "\u0664"], "expected whole numbers like 4,8"),
        (["run", "--seeds", "1" * 30], "given seeds"),
        (["run", "--seeds", "999999999"], "expected at most 10000"),
        (["run", "--batch-size", "big"], "given batch size 'big', expected a whole number or auto"),
        (["run", "--dtype", "float61"], "did you mean 'float16'?"),
        (["run", "--task", "inpant"], "did you mean 'inpaint'?"),
        (["run", "--methods", "[/red]x"], "unknown method '[/red]x'"),
        (["run", "--models", "a[/b]c"], "a[/b]c"),
        (["run", "--weights", "sun"], "given weights 'sun', expected METHOD=PATH"),
        (["zoo", "path"], "Missing argument"),
        (["paper", "sun-99"], "did you mean 'sun-"),
        (["list", "metric"], "did you mean 'metrics'?"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line(words: list[str], line: str, sunbench: Any):
    code, out, err = sunbench(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("sunbench: ")
    assert line in err


def test_an_unexpected_error_is_one_line_and_a_hint(sunbench: Any, monkeypatch: Any):
    def fail() -> None:
        raise RuntimeError("two\nlines [/red]")

    monkeypatch.setattr("sunbench.doctor.examine", fail)
    code, out, err = sunbench("doctor")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "RuntimeError: two lines [/red]" in err
    assert "--debug" in err
    monkeypatch.setattr(sys, "argv", ["sunbench", "doctor", "--debug"])
    with pytest.raises(RuntimeError):
        main()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            OSError(errno.EMFILE, "Too many open files", "x.parquet"),
            "Too many open files: x.parquet",
        ),
        (MemoryError(), "out of memory, expected more; a smaller --batch-size needs less"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "out of memory"),
    ],
)
def test_what_the_machine_refuses_is_no_bug(
    error: Exception, line: str, sunbench: Any, monkeypatch: Any
):
    def fail() -> None:
        raise error

    monkeypatch.setattr("sunbench.doctor.examine", fail)
    code, out, err = sunbench("doctor")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"sunbench: {line}")
    assert "report it" not in err


def test_a_letter_that_the_output_cannot_hold_is_spelled(monkeypatch: Any):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, "ascii", write_through=True))
    monkeypatch.setattr("sunbench.doctor.examine", lambda: console.say("caf\xe9"))
    monkeypatch.setattr(sys, "argv", ["sunbench", "doctor", "--json"])
    with pytest.raises(SystemExit):
        main()
    assert screen.getvalue().startswith(b"caf\\xe9\n")


def test_stopping_it_says_how_to_go_on(sunbench: Any, monkeypatch: Any):
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sunbench.doctor.examine", stop)
    code, _, err = sunbench("doctor")
    assert code == 130
    assert "the same command continues from here" in err


def test_list_alone_lists_everything(sunbench: Any, monkeypatch: Any, tmp_path: Any):
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = sunbench("list")
    assert code == 0
    for name in ("dpm++", "emoji-3d", "coco-30k", "clip_score", "not built"):
        assert name in out
    assert out.count("NOT PINNED") == 4  # three models, one prompt set


def test_json(sunbench: Any, monkeypatch: Any, tmp_path: Any):
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path))
    code, out, _ = sunbench("list", "methods", "--json")
    assert code == 0
    assert {"name", "summary", "paper"} == set(json.loads(out)[0])
    everything = json.loads(sunbench("list", "--json")[1])
    assert set(everything) == {"methods", "models", "prompts", "metrics", "reference-sets"}
    facts = json.loads(sunbench("doctor", "--json")[1])
    assert "cores" in facts["processor"]


def test_version_flag(sunbench: Any):
    from sunbench import __version__

    assert sunbench("--version") == (0, __version__ + "\n", "")


@pytest.mark.parametrize("name", ["[/red]x", "a[/b]c", "style[v2].safetensors", "x\\[y]"])
def test_names_with_markup_are_printed_as_they_are(name: str, monkeypatch: Any):
    import io

    from rich.console import Console

    screen = Console(width=120, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "out", screen)
    console.say(name)
    screen.print(console.rich_table(name, [name], [[name]]))
    assert screen.export_text().count(name) == 4


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("run --methods ddim,dpm", {"ddim,dpm++", "ddim,dpm-solver"}),
        ("run --task ", {"text2image", "inpaint"}),
        ("list m", {"methods", "models", "metrics"}),
    ],
)
def test_the_shell_completes_names(words: str, names: set[str]):
    import subprocess

    typed = f"sunbench {words}"
    env = {"_SUNBENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "PATH": ""}
    env["COMP_CWORD"] = str(len(typed.split(" ")) - 1)
    program = [sys.executable, "-m", "sunbench"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=env)
    assert names <= set(done.stdout.split("\n")), done.stderr


def test_texts_stand_left_and_numbers_right():
    built = console.rich_table(
        "t", ["name", "text", "ms"], [["a", "12 x", "n/a"], ["b", "none", "±3"]]
    )
    assert [c.justify for c in built.columns] == ["left", "left", "right"]


def test_a_name_is_not_broken_where_other_columns_can_be(monkeypatch: Any):
    from rich.console import Console

    screen = Console(width=60, record=True, file=io.StringIO())
    name = "zero_shot_inception_score"
    screen.print(
        console.rich_table("t", ["name", "a", "b"], [[name, "long words " * 9, "more " * 9]])
    )
    assert name in screen.export_text()
