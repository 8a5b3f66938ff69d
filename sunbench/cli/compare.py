"""``sunbench compare`` and ``sunbench verify``: may a run be trusted, and is it worse?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from sunbench.cli import options as o
from sunbench.cli.console import err, out, print_json, records, rich_table, say

if TYPE_CHECKING:
    from sunbench.regression.compare import RunComparison

#: Lines of the table on the screen; the page has all of them.
SHOWN = 20


def compare(
    baseline: Annotated[
        Path, typer.Argument(metavar="BASELINE", help="A finished run, or a saved baseline.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    allow_missing: Annotated[
        bool, o.option("Ignore rows that RUN lacks.", "--allow-missing")
    ] = False,
    tolerances: Annotated[
        Path | None, o.option("TOML file that overrides the package's tolerances.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Check whether RUN is worse than BASELINE.

    Exit code 0: it is not, 1: it is, 2: they cannot be compared.
    """
    from sunbench.regression import compare as gate
    from sunbench.regression.compare_page import write_comparison
    from sunbench.regression.tolerances import load_tolerances

    comparison = gate.compare(baseline, folder, load_tolerances(tolerances))
    page, code = write_comparison(comparison, folder), comparison.exit_code(allow_missing)
    if as_json:
        print_json(_document(comparison, code))
        raise typer.Exit(code)
    _print_changed(comparison)
    say(f"Page: {page}")
    stream = err if comparison.problems else out
    stream.print(Text(comparison.headline), soft_wrap=True)
    raise typer.Exit(code)


def _print_changed(comparison: RunComparison) -> None:
    """The rows that changed, worst first, and what else is different."""
    from sunbench.regression.compare_page import HEAD, verdict_lines

    lines = [line for line in verdict_lines(comparison) if line[0] != "same"]
    if lines:
        out.print(rich_table("against the baseline", HEAD, lines[:SHOWN]))
    if len(lines) > SHOWN:
        say(f"{len(lines) - SHOWN} more rows changed: see the page")
    for change in comparison.changes[:SHOWN]:
        say(f"Also different: {change}")


def _document(comparison: RunComparison, code: int) -> dict[str, object]:
    from sunbench.regression.compare_page import HEAD, verdict_lines

    return {
        "exit_code": code,
        "headline": comparison.headline,
        "problems": list(comparison.problems),
        "changes": list(comparison.changes),
        "rows": records(HEAD, verdict_lines(comparison)),
    }


def verify(
    folder: o.RunDir,
    repair: Annotated[
        bool,
        o.option("Sample again what is broken or was edited, and nothing else.", "--repair"),
    ] = False,
) -> None:
    """Check every checksum, key, pairing and number of a run, and write nothing unless --repair.

    Exit code 0: all is right, 1: something is wrong, 2: it cannot be checked or repaired.
    """
    from sunbench.bench.repair import repair_run
    from sunbench.bench.verify import verify_run

    if repair:
        for problem in repair_run(folder):
            say(f"Repaired: {problem}")
    print_verified(*verify_run(folder), "cells")


def print_verified(checked: int, problems: list[str], what: str) -> None:
    """Print the outcome of a check; exit code 1 where something is wrong."""
    rest = "key, pairing and number" if what == "cells" else "key and pairing"
    for problem in problems:
        err.print(Text(problem, "red"), soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    say(f"{checked} {what} checked: every checksum, {rest} is right")
