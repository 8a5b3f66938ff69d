"""Commands and Python of the README and docs/: parsed by the program, and run where cheap."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sunbench import cli, prompts
from sunbench.models import find_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORTS = sorted((ROOT / "reports").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)

#: Subcommands that only look at what is there: they are run, on a tiny finished run.
CHEAP = (
    *("list", "doctor", "version", "report", "pick", "verify", "compare"),
    *("reference list", "reference verify", "zoo path"),
)
#: Programs that are not ours.
OTHERS = ("python", "pip", "tox", "pytest", "cp", "mkdir", "hf")
#: Environment variables that a command may set.
VARIABLES = ("SUNBENCH_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN")


def blocks(page: Path, language: str) -> list[str]:
    return [code for tag, code in FENCE.findall(page.read_text("utf-8")) if tag == language]


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of a page's shell blocks and of its workflows, in words."""
    lines = [t for b in blocks(page, "sh") for t in b.replace("\\\n", " ").splitlines()]
    lines += [t for b in blocks(page, "yaml") for t in re.findall(r"- run: (.+)", b)]
    for line in lines:
        words = shlex.split(line, comments=True)
        while "&&" in words:
            cut = words.index("&&")
            yield words[:cut]
            words = words[cut + 1 :]
        if words:
            yield launched(words)


def launched(words: list[str]) -> list[str]:
    """What ``accelerate launch … -m sunbench`` starts; other commands as they are."""
    if words[:2] != ["accelerate", "launch"]:
        return words
    return words[words.index("-m") + 1 :]


def parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Environment variables that a command sets, and the command."""
    n = next(i for i, w in enumerate(words) if not re.match(r"[A-Z_]+=", w))
    return [w.partition("=")[0] for w in words[:n]], words[n:]


def own_commands() -> list[Any]:
    """(words after ``sunbench``) of all pages, each once."""
    origin: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for words in commands(page):
            _, rest = parted(words)
            if Path(rest[0]).name == "sunbench":
                origin.setdefault(tuple(rest[1:]), page.name)
    return [pytest.param(list(w), id=f"{page}: {' '.join(w)}") for w, page in origin.items()]


def code_blocks() -> list[Any]:
    return [
        pytest.param(code, id=f"{page.name}-{i}")
        for page in PAGES
        for i, code in enumerate(blocks(page, "python"))
    ]


# ------------------------------------------------------------------------------ commands


def leaf(words: list[str]) -> tuple[str, Any, list[str]]:
    """The subcommand that words name, its parser, and what is left for it."""
    command, name, left = typer.main.get_command(cli.app), [], list(words)
    while hasattr(command, "commands"):
        assert left, f"sunbench {' '.join(words)}: no subcommand"
        assert left[0] in command.commands, f"sunbench has no {' '.join([*name, left[0]])!r}"
        name.append(left.pop(0))
        command = command.commands[name[-1]]
    return " ".join(name), command, left


def run(words: list[str], patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["sunbench", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("words", own_commands())
def test_command(
    words: list[str],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Options exist, names are known; what is cheap runs."""
    name, command, left = leaf(words)
    params = command.make_context(name, left).params
    if name == "run":
        asked: list[Any] = []
        module = importlib.import_module("sunbench.cli.run")
        monkeypatch.setattr(module, "_execute", lambda request, *_: asked.append(request))
        monkeypatch.setattr(module, "_print_plan", lambda request, folder: asked.append(request))
        assert run(words, monkeypatch) == 0, capsys.readouterr().err
        check_request(asked[0])
    elif name in CHEAP:
        fine = (0, 1) if name == "pick" else (0,)  # 1: nothing is that fast on this machine
        assert run(words, monkeypatch) in fine, capsys.readouterr().err
    elif name == "train":
        find_model(params["base"])
    elif name == "reference build":
        assert [find_model(model) for model in params["models"]]


def check_request(request: Any) -> None:
    """Models and prompts that can be found; the request has checked the other names itself."""
    for model in request.models:
        find_model(model)
    prompt_set = request.prompts
    if prompt_set is not None and prompt_set not in prompts.names():
        prompts.load(prompt_set, column=request.column, negatives=request.negatives)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_programs_variables_and_paths_are_known(page: Path):
    for command in commands(page):
        variables, words = parted(command)
        assert set(variables) <= set(VARIABLES)
        program = Path(words[0]).name
        assert program == "sunbench" or program in OTHERS, words
        if program == "pytest":
            assert all((ROOT / w).exists() for w in words[1:] if "/" in w)


def mentioned() -> list[Any]:
    """(words after ``sunbench``) of code in sentences, and of blocks that are not run."""
    out: dict[tuple[str, ...], str] = {}
    for page in [*PAGES, *REPORTS]:
        text = page.read_text("utf-8")
        spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
        unrun = ("bash", "text") if page in PAGES else ("sh",)
        spans += [t for kind in unrun for b in blocks(page, kind) for t in lines_of(b)]
        for span in spans:
            if own := re.search(r"\bsunbench ((?:[a-z]|--)[^\"]*)", " ".join(span.split())):
                out.setdefault(tuple(shlex.split(own[1], comments=True)), page.name)
    return [pytest.param(list(w), id=f"{page}: {' '.join(w)}") for w, page in out.items()]


def lines_of(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("words", mentioned())
def test_a_command_in_a_sentence_has_its_options(words: list[str]):
    """Its places and names are examples, so it is not parsed as a whole."""
    groups = [
        n for n, c in typer.main.get_command(cli.app).commands.items() if hasattr(c, "commands")
    ]
    if words[0] == "COMMAND" or words in [[name] for name in groups]:
        return
    name, command, left = leaf(words)
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    options = {word.partition("=")[0] for word in left if re.match(r"-[-a-z]", word)}
    assert options <= known, f"sunbench {name} has no {', '.join(sorted(options - known))}"


# ------------------------------------------------------------------------------ code


@pytest.mark.parametrize("code", code_blocks())
def test_python_runs(code: str, workplace: Path, capsys: pytest.CaptureFixture[str]):
    """Every block as it stands, on the tiny models; a method that it makes keeps its promises."""
    names: dict[str, Any] = {"__name__": "docs"}
    exec(compile(code, "docs", "exec"), names)
    methods = [v for k, v in names.items() if re.search(rf"^def {k}\(\)", code, re.M)]
    for method in methods:
        check_method(method())
    assert methods or "print(" not in code or capsys.readouterr().out


def check_method(method: Any) -> None:
    import torch

    from sunbench.models import load
    from sunbench.sampling import ImageId, Method, SampleSettings, make_batch

    assert isinstance(method, Method)
    pipeline, settings = load(find_model("./my-finetune")).pipeline, SampleSettings(2, 4.0)
    content = method.content(pipeline, settings)
    assert json.loads(json.dumps(content)) == content
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    assert method.skip(pipeline, settings) is None
    texts = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(0))
    batch = make_batch([ImageId("a", 0)], texts, -texts, (4, 8, 8))
    sampler = method.prepare(pipeline, settings)
    assert bool(torch.isfinite(sampler.sample(batch)).all())
    assert sampler.nfe == method.evaluations(settings)
    method.release(pipeline)
    assert all(torch.equal(v, before[k]) for k, v in pipeline.unet.state_dict().items())
