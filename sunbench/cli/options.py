"""How the text of options becomes values, and the options that several commands share."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from sunbench.api.device import best_device as best_device
from sunbench.errors import UserError
from sunbench.run_options import DTYPES, NEGATIVES

#: ASCII digits alone: ``int`` would also take ``1_0`` and other scripts' digits.
WHOLE = re.compile(r"[+-]?[0-9]+")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

#: Panels of a command's help, in the order in which they appear.
COMPARE, PROMPTS, TASK, MEASURE, MACHINE, OUTPUT = (
    "What to compare",
    "Prompts and noise",
    "Task",
    "Metrics and timing",
    "Machine",
    "Files",
)


# ------------------------------------------------------------------------------ text to values


def split_names(text: str) -> tuple[str, ...]:
    """Comma-separated names; commas in brackets, of ``fd[a,b]`` or ``x(a,b)``, don't separate."""
    parts = re.split(r",(?![^\[]*\])(?![^(]*\))", text)
    return tuple(part.strip() for part in parts if part.strip())


def method_names(text: str) -> tuple[str, ...]:
    """Comma-separated methods; the commas between the turns of a ``switch:`` don't separate."""
    out: list[str] = []
    for part in split_names(text):
        if out and out[-1].startswith("switch:") and re.search(r"@[0-9]+$", part):
            out[-1] += f",{part}"
        else:
            out.append(part)
    return tuple(out)


def numbers(text: str, what: str) -> tuple[int, ...]:
    """Comma-separated whole numbers; what: their name in the error."""
    parts = split_names(text)
    if not all(WHOLE.fullmatch(part) and len(part) < 20 for part in parts):
        raise UserError(f"given {what} {text!r}, expected whole numbers like 4,8")
    return tuple(int(part) for part in parts)


def seed_list(text: str) -> tuple[int, ...]:
    """``3`` means seeds 0, 1, 2; ``0,7`` means those two."""
    seeds = numbers(text, "seeds")
    if "," in text or not seeds:
        return seeds
    if seeds[0] > 10_000:
        raise UserError(f"given {seeds[0]} seeds, expected at most 10000 (or a list: 0,{seeds[0]})")
    return tuple(range(seeds[0]))


def batch_size(text: str) -> int | Any:
    """A batch size: a number, or ``auto`` for what the device's memory allows."""
    if text == "auto":
        return text
    if not WHOLE.fullmatch(text) or len(text) > 9:
        raise UserError(f"given batch size {text!r}, expected a whole number or auto")
    return int(text)


def weights_table(values: Iterable[str] | None) -> dict[str, str]:
    """METHOD=PATH and METHOD@MODEL=PATH as a table; UserError for anything else."""
    table: dict[str, str] = {}
    for text in values or ():
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"given weights {text!r}, expected METHOD=PATH or METHOD@MODEL=PATH")
        if name in table:
            raise UserError(f"given weights for {name} twice, expected once")
        table[name] = path
    return table


# ------------------------------------------------------------------------------ kinds of options


def option(help: str, *flags: str, panel: str | None = None, **more: Any) -> Any:
    """An option whose help is literal text: no brackets of it are taken for markup."""
    return typer.Option(*flags, help=escape(help), rich_help_panel=panel, **more)


def _number(pattern: re.Pattern[str], kind: Callable[[str], Any], expected: str, name: str) -> Any:
    def parse(value: Any) -> Any:
        text = str(value)
        if not pattern.fullmatch(text) or len(text) > 24 or not math.isfinite(float(text)):
            raise typer.BadParameter(f"given {name} {text!r}, expected {expected}")
        return kind(text)

    return parse


def whole_number(name: str, help: str, *flags: str, panel: str | None = None) -> Any:
    """An option for a whole number."""
    parse = _number(WHOLE, int, "a whole number", name)
    return option(help, *flags, panel=panel, parser=parse, metavar="NUMBER")


def real(name: str, help: str, *flags: str, panel: str | None = None) -> Any:
    """An option for a finite number."""
    parse = _number(REAL, float, "a number", name)
    return option(help, *flags, panel=panel, parser=parse, metavar="NUMBER")


def choice(name: str, allowed: tuple[str, ...], help: str, panel: str | None = None) -> Any:
    """An option for one of a few words, listed in the help and completed in the shell."""

    def check(value: str | None) -> str | None:
        if value is None or value in allowed:
            return value
        near = difflib.get_close_matches(value.lower(), allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"given {name} {value!r}, expected one of {', '.join(allowed)}{hint}")

    def complete(incomplete: str) -> list[str]:
        return [word for word in allowed if word.startswith(incomplete)]

    return option(
        f"{help} One of {', '.join(allowed)}.",
        panel=panel,
        callback=check,
        autocompletion=complete,
        metavar="NAME",
    )


def _complete_list(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completion of the last name of a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in known() if name.startswith(last)]

    return complete


def _known_methods() -> Iterable[str]:
    from sunbench.registry import methods

    return methods()


def _known_models() -> Iterable[str]:
    from sunbench.models import cards

    return cards()


def _known_prompts() -> Iterable[str]:
    from sunbench import prompts

    return prompts.names()


def _known_metrics() -> Iterable[str]:
    from sunbench.metrics.registry import metrics

    return metrics()


# ------------------------------------------------------------------------------ shared options

Methods = Annotated[
    str,
    option(
        "Comma-separated methods, or all.",
        panel=COMPARE,
        autocompletion=_complete_list(_known_methods),
        metavar="NAMES",
    ),
]
Models = Annotated[
    str,
    option(
        "Comma-separated models: built-in names, hub ids (owner/name@revision), diffusers folders,"
        " .safetensors files or cards (.toml).",
        panel=COMPARE,
        autocompletion=_complete_list(_known_models),
        metavar="NAMES",
    ),
]
Steps = Annotated[
    str, option("Comma-separated numbers of steps.", panel=COMPARE, metavar="NUMBERS")
]
Guidance = Annotated[
    float | None, real("guidance", "Guidance scale; default: the model card's.", panel=COMPARE)
]
WeightsOption = Annotated[
    list[str] | None,
    option(
        "A method's trained weights, a path or hub id: METHOD=PATH for all models,"
        " METHOD@MODEL=PATH for one. Repeatable.",
        panel=COMPARE,
        metavar="METHOD=PATH",
    ),
]
Images = Annotated[int, whole_number("images", "Images per row: prompts x seeds.", panel=PROMPTS)]
Seeds = Annotated[
    str,
    option("Number of seeds, or a list such as 0,1,2.", "--seeds", panel=PROMPTS, metavar="SEEDS"),
]
Prompts = Annotated[
    str | None,
    option(
        "Prompt set, file (.txt, .csv, .tsv, .jsonl, .parquet) or hub dataset; default: the model"
        " card's.",
        panel=PROMPTS,
        autocompletion=_complete_list(_known_prompts),
        metavar="NAME",
    ),
]
Column = Annotated[
    str | None, option("Column that holds the prompts.", panel=PROMPTS, metavar="NAME")
]
Negatives = Annotated[
    str,
    choice(
        "negatives",
        NEGATIVES,
        "Negative prompts: none, the model card's, or sampled phrases.",
        panel=PROMPTS,
    ),
]
Metrics = Annotated[
    str,
    option(
        "Comma-separated metrics; default: the model card's.",
        panel=MEASURE,
        autocompletion=_complete_list(_known_metrics),
        metavar="NAMES",
    ),
]
Device = Annotated[
    str | None,
    option(
        "cpu, cuda, cuda:N or mps; default: the fastest.",
        "--device",  # typer 0.27 would name it after the metavar
        panel=MACHINE,
        metavar="DEVICE",
    ),
]
Dtype = Annotated[
    str, choice("dtype", DTYPES, "Precision of the U-Net and text encoder.", panel=MACHINE)
]
BatchSize = Annotated[
    str,
    option(
        "Images sampled at once: a number, or auto. Halved when memory runs out.",
        "--batch-size",
        "--batch",
        panel=MACHINE,
        metavar="NUMBER",
    ),
]
Json = Annotated[bool, option("Print JSON, for other programs.", "--json", panel=OUTPUT)]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
