"""``sunbench baseline``: what later runs are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli.console import say

baseline_app = typer.Typer(help="Small baselines that can be committed.", no_args_is_help=True)


@baseline_app.command("save")
def save(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
) -> None:
    """Write a run's numbers and per-image scores, no images, into DIR, for `sunbench compare`."""
    from sunbench.regression.compare import save_baseline

    save_baseline(run, folder)
    say(f"Baseline: {folder}")
