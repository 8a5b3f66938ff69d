"""``sunbench compare`` and ``sunbench verify``: may a run be trusted, and is it worse?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sunbench.cli.console import err, out


def compare(
    baseline: Annotated[Path, typer.Argument(help="A finished run, or a light baseline.")],
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Rows that RUN lacks do not count.")
    ] = False,
    tolerances: Annotated[
        Path | None, typer.Option(help="TOML put over the package's tolerances.")
    ] = None,
    save_baseline: Annotated[
        bool,
        typer.Option(
            "--save-baseline",
            help="Given RUN DIR: write RUN's numbers and scores, no pictures, into DIR.",
        ),
    ] = False,
) -> None:
    """Is RUN worse than BASELINE? Exit code 0: no, 1: yes, 2: they cannot be compared."""
    from sunbench.regression import compare as gate
    from sunbench.regression.compare_page import HEAD, table, write_page
    from sunbench.regression.tolerances import load_tolerances

    if save_baseline:
        gate.save_baseline(baseline, folder)
        out.print(f"Baseline: {folder}", highlight=False, soft_wrap=True)
        return
    found = gate.compare(baseline, folder, load_tolerances(tolerances))
    if found.verdicts:
        out.print(table("against the baseline", HEAD, table(found)))
    page = write_page(found, folder)
    (err if found.problems else out).print(escape(found.headline), highlight=False, soft_wrap=True)
    out.print(f"Page: {page}", highlight=False, soft_wrap=True)
    raise typer.Exit(found.exit_code(allow_missing))


def verify(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Check every checksum, key and pairing of a run."""
    from sunbench.bench.verify import verify_run

    print_verified(*verify_run(folder), "cells")


def print_verified(checked: int, problems: list[str], what: str) -> None:
    """The outcome of a check; exit code 1 where something is wrong."""
    for problem in problems:
        err.print(escape(problem), style="red", highlight=False)
    if problems:
        raise typer.Exit(1)
    out.print(f"{checked} {what} checked: every checksum, key and pairing is right")
