"""The command line: each command a few lines over the library."""

from __future__ import annotations

import logging
import sys

import typer
from rich.logging import RichHandler
from rich.markup import escape

from sunbench import __version__
from sunbench.cli.compare import compare, verify
from sunbench.cli.console import err
from sunbench.cli.doctor import doctor
from sunbench.cli.listing import list_
from sunbench.cli.paper import app as paper_app
from sunbench.cli.reference import reference_app
from sunbench.cli.report import pick, report
from sunbench.cli.run import run
from sunbench.cli.studies import negatives
from sunbench.cli.train import train
from sunbench.cli.zoo import zoo_app
from sunbench.errors import UserError

app = typer.Typer(
    name="sunbench",
    help="How much time does an accelerator gain on your model, and how far do the pictures move?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (run, report, pick, compare, verify, negatives, train, doctor):
    app.command()(command)
app.command("list")(list_)
app.add_typer(reference_app, name="reference")
app.add_typer(zoo_app, name="zoo")
app.add_typer(paper_app, name="paper")


@app.command()
def version() -> None:
    """The version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2."""
    handler = RichHandler(console=err, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        app()
    except UserError as error:
        err.print(f"[bold red]sunbench:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
