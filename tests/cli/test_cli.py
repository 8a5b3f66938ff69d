"""The command line: a user's mistake is one line and exit code 2."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sunbench import __version__
from sunbench.cli import main
from sunbench.cli.options import numbers, seed_list
from sunbench.errors import UserError
from sunbench.zoo import weights


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sunbench", *words])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


@pytest.fixture
def sunbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *words: run(capsys, monkeypatch, *words)


MISTAKES = [
    (["run", "--methods", "dimm"], "unknown method 'dimm'; did you mean 'ddim'?"),
    (["run", "--models", "emoij"], "unknown model 'emoij'; did you mean 'emoji'?"),
    (["run", "--metrics", "sssim"], "unknown metric 'sssim'; did you mean 'ssim'?"),
    (["run", "--metrics", "fd[zoo-clop]"], "did you mean 'zoo-clip'?"),
    (["run", "--methods", ","], "given no methods, expected at least one"),
    (["run", "--steps", "4,0"], "given 0 steps, expected 1 to 10000"),
    (["run", "--steps", "four"], "given steps 'four', expected whole numbers like 4,8"),
    (["run", "--steps", "4.5"], "given steps '4.5', expected whole numbers like 4,8"),
    (["run", "--seeds", "0"], "given no seeds, expected at least one"),
    (["run", "--seeds", "1,1"], "given seeds (1, 1), expected each once"),
    (["run", "--seeds", "x"], "given seeds 'x', expected whole numbers like 4,8"),
    (["run", "--images", "7", "--seeds", "2"], "a multiple of the 2 seeds"),
    (["run", "--guidance", "1000"], "guidance_scale 1000.0, expected between 0 and 100"),
    (["run", "--dtype", "float8"], "dtype 'float8', expected one of"),
    (["run", "--task", "draw"], "task 'draw', expected one of"),
    (["run", "--images", "4", "--prompts", "no/such.txt"], "given prompts no/such.txt"),
    (["list", "method"], "unknown list 'method'; did you mean 'methods'?"),
    (["zoo", "path", "emojy"], "unknown zoo model 'emojy'; did you mean 'emoji'?"),
    (["verify", "nothing"], "results.json is missing"),
    (["report", "nothing"], "results.json is missing"),
    (["reference", "build", "emoij"], "did you mean 'emoji'?"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_mistakes(sunbench, words: list[str], line: str):
    code, out, err = sunbench(*words)
    assert code == 2
    assert line in err
    assert re.fullmatch(r"sunbench: [^\n]+\n", err), err
    assert out == ""


def test_a_mistake_with_markup_is_said_as_it_is(sunbench):
    code, _, err = sunbench("run", "--methods", "[red]x[/]")
    assert code == 2
    assert "'[red]x[/]'" in err


def test_version(sunbench):
    assert sunbench("version") == (0, __version__ + "\n", "")


@pytest.mark.parametrize("words", [[], ["run"], ["reference"], ["zoo"], ["list"]])
def test_help(sunbench, words: list[str]):
    code, out, err = sunbench(*words, "--help")
    assert code == 0
    assert "Usage:" in out
    assert err == ""


@pytest.mark.skipif(not weights().is_dir(), reason="the zoo's weights are not here")
def test_zoo_path_is_a_plain_diffusers_folder(sunbench):
    code, out, _ = sunbench("zoo", "path", "emoji")
    folder = Path(out.strip())
    assert code == 0
    assert (folder / "model_index.json").is_file()
    assert {p.name for p in folder.iterdir()} >= {"unet", "vae", "text_encoder", "tokenizer"}


@pytest.mark.parametrize(("value", "code"), [(0.5, 0), (0.3, 1)])
def test_zoo_check_fails_when_something_falls_short(
    sunbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float, code: int
):
    from sunbench.studies.zoo_quality import Check

    checks = [Check("only reported", 7.0, None, None, 8), Check("seeds", value, 0.4, None, 8)]
    monkeypatch.setattr("sunbench.studies.zoo_check.check", lambda *_: checks)
    left, out, _ = sunbench("zoo", "check", "--out", str(tmp_path))
    assert (left, out.strip()) == (code, str(tmp_path / "README.md"))


def test_lists_are_made_without_torch():
    code = (
        "import sys; from sunbench.cli import app\n"
        "for what in ('methods', 'models', 'prompts', 'metrics'):\n"
        "    app(['list', what], standalone_mode=False)\n"
        "    assert 'torch' not in sys.modules, what\n"
    )
    env = {"COLUMNS": "200", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    for name in ("ddim-leading", "emoji-3d", "zoo", "clip_score"):
        assert name in done.stdout


def test_list_of_reference_sets_names_those_not_built(sunbench):
    code, out, _ = sunbench("list", "reference-sets")
    assert code == 0
    assert "emoji-3d" in out
    assert "not" in out


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("0,7", (0, 7)), ("5,", (5,)), ("", ()), ("-2", ())]
)
def test_seeds_are_a_count_or_a_list(text: str, seeds: tuple[int, ...]):
    assert seed_list(text) == seeds


def test_numbers_say_what_they_were_for():
    assert numbers(" 4, 8 ", "steps") == (4, 8)
    with pytest.raises(UserError, match="given seeds '1;2'"):
        numbers("1;2", "seeds")


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        ("moves, % of a new seed ↓", ["moves, % of a", "new seed ↓"]),
        ("rank at its steps", ["rank at its", "steps"]),
        ("fd[zoo-clip] ↓", ["fd ↓", "[zoo-clip]"]),
        ("unmasked_psnr ↑", ["unmasked_psnr ↑"]),
        ("zero_shot_inception_score ↑", ["zero_shot_inception_score ↑"]),
    ],
)
def test_a_column_head_is_narrow_and_whole(head: str, lines: list[str]):
    from sunbench.cli import console

    assert console.column_head(head).replace("\N{NO-BREAK SPACE}", " ").splitlines() == lines


@pytest.mark.parametrize("width", [60, 80, 300])
def test_a_table_wider_than_the_screen_is_several(width: int, monkeypatch):
    from rich.console import Console

    from sunbench.cli import console

    screen = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "out", screen)
    metrics = [console.column_head(f"metric{i}[zoo-clip] ↓") for i in range(8)]
    head = ["method", "steps", *metrics]
    lines = [["ddim", "4", *(f"{i}.25\n±0.125" for i in range(8))]]
    for table in console.tables("emoji", head, lines, fixed=2):
        screen.print(table)
    text = screen.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert all(f"metric{i} ↓" in text and f"{i}.25" in text for i in range(8))
    assert text.count("[zoo-clip]") == 8
    tables = text.count("method ")  # each begins with the first columns
    assert text.count("ddim") == tables
    assert tables == 1 if width == 300 else tables > 1


@pytest.mark.parametrize("command", ["run", "negatives"])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sun"], "given weights 'sun', expected METHOD=PATH or METHOD@MODEL=PATH"),
        (["sun=a", "sun=b"], "given weights for sun twice, expected once"),
        (["snu=a"], "unknown method 'snu'; did you mean 'sun'?"),
        (["sun@emojy-3d=a"], "unknown model in weights 'emojy-3d'; did you mean 'emoji-3d'?"),
        (["lcm=a"], "given weights for lcm, expected it among the methods of the run"),
    ],
)
def test_weights_are_checked_before_anything_starts(
    command: str, words: list[str], line: str, sunbench
):
    options = [x for word in words for x in ("--weights", word)]
    code, _, err = sunbench(command, "--methods", "sun", *options)
    assert (code, err) == (2, f"sunbench: {line}\n")


@pytest.mark.parametrize(
    ("word", "line"),
    [("sun", "expected METHOD=PATH"), ("sun@emojy=a", "did you mean 'emoji'?")],
)
def test_weights_of_a_papers_table_are_checked_too(word: str, line: str, sunbench):
    code, _, err = sunbench("paper", "sun-2", "--models", "emoji", "--weights", word)
    assert code == 2
    assert line in err


def test_a_check_of_no_images_is_one_line(sunbench):
    code, out, err = sunbench("zoo", "check", "--images", "0")
    assert (code, out) == (2, "")
    assert err == "sunbench: given 0 images per figure, expected at least 2\n"
