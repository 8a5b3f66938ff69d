"""The command line: each command a few lines over the library."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.text import Text

from sunbench import __version__
from sunbench.cli.baseline import baseline_app
from sunbench.cli.boards import board, compatibility, retention
from sunbench.cli.compare import compare, verify
from sunbench.cli.console import err, literal_help
from sunbench.cli.doctor import doctor
from sunbench.cli.fetch import fetch
from sunbench.cli.listing import list_
from sunbench.cli.paper import app as paper_app
from sunbench.cli.reference import reference_app
from sunbench.cli.report import pick, report
from sunbench.cli.run import run
from sunbench.cli.score import score
from sunbench.cli.studies import negatives, selftest
from sunbench.cli.train import train
from sunbench.cli.work import export, merge, work
from sunbench.cli.zoo import zoo_app
from sunbench.errors import UserError

app = typer.Typer(
    name="sunbench",
    help="How much time does an accelerator gain on your model, and how far do the images move?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MEASURE, READ, MAKE, LOOK = "Measure", "Read results", "Train and build", "Look up"
for _command, _panel in (
    (run, MEASURE),
    (work, MEASURE),
    (score, MEASURE),
    (negatives, MEASURE),
    (selftest, MEASURE),
    (compatibility, MEASURE),
    (report, READ),
    (pick, READ),
    (compare, READ),
    (verify, READ),
    (board, READ),
    (retention, READ),
    (export, READ),
    (merge, READ),
    (train, MAKE),
    (fetch, LOOK),
    (doctor, LOOK),
):
    app.command(rich_help_panel=_panel)(_command)
app.command("list", rich_help_panel=LOOK)(list_)
app.add_typer(baseline_app, name="baseline", rich_help_panel=READ)
app.add_typer(paper_app, name="paper", rich_help_panel=MEASURE)
app.add_typer(reference_app, name="reference", rich_help_panel=MAKE)
app.add_typer(zoo_app, name="zoo", rich_help_panel=MAKE)


@app.command(rich_help_panel=LOOK)
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


for _group in (app, baseline_app, paper_app, reference_app, zoo_app):
    for _registered in _group.registered_commands:
        if _registered.callback is not None:
            _registered.help = literal_help(_registered.callback)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    pass


#: What a system refuses: a disk is full or broken, too many files are open, permissions are
#: missing, a folder stands in a file's place or the other way round.
_REFUSED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}
#: Exit code of a command stopped by Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Entry point: a mistake is one line and exit code 2; ``--debug`` shows where it comes from."""
    handler = RichHandler(console=err, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    for stream in (sys.stdout, sys.stderr):  # names that the terminal's encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    try:
        code = app(words, prog_name="sunbench", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        if debug:
            raise
        code = _explain(error)
        _drop_unwritable()
        sys.exit(code)
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        _complain("stopped; the same command continues from here")
    sys.exit(code if isinstance(code, int) else 0)


def _drop_unwritable() -> None:
    """Drop what stdout cannot write: Python would try again at its end, and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    """Print an error in one line; the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2  # it has printed the help
    if isinstance(error, BrokenPipeError):
        return 1  # the reader left, as `sunbench list | head -1` does
    if isinstance(error, UserError):
        _complain(str(error))
    elif isinstance(error, typer.TyperException):
        _complain(_usage(error))
    elif refusal := _refusal(error):
        _complain(refusal)
    else:
        text = " ".join(str(error).split())
        name = type(error).__name__
        _complain(f"{name}: {text[:300]} (--debug shows where; unexpected, so please report it)")
    return 2


def _refusal(error: Exception) -> str:
    """What the machine refused: room, open files, memory; "" for any other error."""
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return f"{error.strerror}{'' if error.filename is None else f': {error.filename}'}"
    if isinstance(error, MemoryError | RuntimeError):
        from sunbench.bench.batches import out_of_memory

        if isinstance(error, MemoryError) or out_of_memory(error):
            return "out of memory, expected more; a smaller --batch-size needs less"
    return ""


def _usage(error: typer.TyperException) -> str:
    """A mistake in flags or arguments, in one line."""
    if isinstance(error, typer.BadParameter) and error.message.startswith("given "):
        return error.message
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    command = "sunbench" if context is None else context.command_path
    return f"{text} ({command} -h lists what there is)"


def _complain(text: str) -> None:
    line = " ".join(text.splitlines())
    err.print(Text.assemble(("sunbench:", "bold red"), " ", line), soft_wrap=True)
