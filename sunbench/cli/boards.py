"""``sunbench board``, ``retention`` and ``compatibility``: methods beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.console import say
from sunbench.errors import UserError

if TYPE_CHECKING:
    from sunbench.studies.retention import Dose

OutFile = Annotated[Path, o.option("The Markdown file to write.", "--out", panel=o.OUTPUT)]
Metric = Annotated[
    str | None, o.option("Distance to show; default: the run's first.", metavar="NAME")
]


def _write(path: Path, text: str) -> None:
    from sunbench.store import write_atomic
    from sunbench.store.files import make_folder

    make_folder(path.parent)
    write_atomic(path, text.encode())
    say(f"Written: {path}")


def board(
    run: o.RunDir,
    nfe: Annotated[
        str,
        o.option(
            "Budgets of U-Net evaluations to group by; default: the run's.", metavar="NUMBERS"
        ),
    ] = "",
    metric: Metric = None,
    out: OutFile = Path("board.md"),
) -> None:
    """One board of a run: all methods at equal budgets of U-Net evaluations, nearest first."""
    from sunbench.report.board import board as render
    from sunbench.report.data import read_run
    from sunbench.store import RunFolder

    folder = RunFolder(run)
    budgets = o.numbers(nfe, "nfe") or folder.read_run().budgets
    if not budgets:
        raise UserError("given no budgets, expected --nfe: the run was asked for steps")
    _write(out, render(read_run(folder), budgets, metric))


Plugged = Annotated[
    Path, typer.Argument(metavar="PLUGGED", help="Run with the base's weights on fine-tunes.")
]
Trained = Annotated[
    Path, typer.Argument(metavar="TRAINED", help="Run with weights trained on each fine-tune.")
]
DoseOption = Annotated[
    list[str] | None,
    o.option(
        "How much of a fine-tune's training a model has had, 0 to 1. Repeatable.",
        metavar="MODEL[@FINE-TUNE]=SHARE",
    ),
]


def retention(
    plugged: Plugged,
    trained: Trained,
    dose: DoseOption = None,
    metric: Metric = None,
    out: OutFile = Path("plug-in-audit.md"),
) -> None:
    """How much of a method is left on fine-tunes that it never saw: distances of two runs."""
    from sunbench.report.choice import default_distance
    from sunbench.report.data import read_run
    from sunbench.store import RunFolder, write_atomic
    from sunbench.store.files import make_folder
    from sunbench.studies.retention import curve, page, retentions

    rows = read_run(RunFolder(plugged)).rows
    chosen = metric or default_distance(rows)
    if chosen is None:
        raise UserError(f"{plugged}: given no distance, expected a run with one")
    lines = retentions(rows, read_run(RunFolder(trained)).rows, chosen, _doses(dose or []))
    image = curve(lines, chosen)
    text = page(lines, chosen)
    if image is not None:
        make_folder(out.parent)
        write_atomic(out.with_suffix(".png"), image)
        text += f"\n![Distance over the share of the fine-tune's training]({out.stem}.png)\n"
    _write(out, text)


def _doses(texts: list[str]) -> dict[str, Dose]:
    from sunbench.studies.retention import Dose

    doses: dict[str, Dose] = {}
    for text in texts:
        name, equals, share = text.partition("=")
        if not (name and equals and o.REAL.fullmatch(share) and 0 <= float(share) <= 1):
            raise UserError(f"given dose {text!r}, expected MODEL=SHARE with a share from 0 to 1")
        model, _, tune = name.partition("@")
        doses[model] = Dose(tune or model, float(share))
    return doses


def compatibility(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A built-in name, id or path.")],
    steps: Annotated[int, o.whole_number("steps", "Number of steps.")] = 8,
    networks: Annotated[
        str, o.option("Pruned networks that methods are put on.", metavar="NAMES")
    ] = "bk-sdm-base",
    weights: o.WeightsOption = None,
    device: o.Device = None,
    out: OutFile = Path("compatibility.md"),
) -> None:
    """Which accelerators can work together on a model: each pair runs, or says why not."""
    from sunbench.models import find_model, load
    from sunbench.registry import composition
    from sunbench.sampling import SampleSettings
    from sunbench.studies.compatibility import page, pairings

    on = o.split_names(networks)
    for name in on:
        composition(f"{name}+ddim")  # an unknown network comes before the model is loaded
    loaded = load(find_model(model), device=device or o.best_device())
    settings = SampleSettings(steps, loaded.card.guidance_scale)
    table, context = o.weights_table(weights), loaded.context
    pairs = pairings(loaded.pipeline, settings, networks=on, weights=table, model=context)
    _write(out, page(pairs, loaded.card.name, settings))
