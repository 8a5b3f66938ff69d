"""``sunbench work``, ``export`` and ``merge``: a run on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sunbench.cli import options as o
from sunbench.cli.console import say
from sunbench.errors import UserError

if TYPE_CHECKING:
    from sunbench.bench.workers import Workers

WORKERS = "auto, a number (0: only `sunbench work` elsewhere), ray, or ray://HOST:PORT"


def work(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of the run, on a shared file system.")
    ],
    device: o.Device = None,
    signs: Annotated[Path | None, typer.Option("--signs", hidden=True)] = None,
) -> None:
    """Sample shards of a run in progress, beside its other workers, until none is left.

    Start it as often as there are devices, for example as a SLURM job array, after `sunbench run
    --workers 0` with the same --out.
    """
    from sunbench.bench.work import work as work_on

    shards = work_on(folder, device=device, signs=signs)
    say(f"{shards} shards sampled")


def check_workers(text: str) -> None:
    """Raise UserError unless ``--workers`` can mean something."""
    named = text in ("auto", "ray") or text.startswith("ray://")
    if not named and (not text.isdecimal() or int(text) > 1024):
        raise UserError(f"given workers {text!r}, expected {WORKERS}")


def parse_workers(text: str, device: str) -> Workers | Literal["auto"] | None:
    """The workers that ``--workers`` asks for; None is the run's own process."""
    from sunbench.bench.workers import LocalWorkers

    check_workers(text)
    if text == "auto":
        return "auto"
    if text == "ray" or text.startswith("ray://"):
        from sunbench.bench.ray_workers import RayWorkers
        from sunbench.paths import cache_root

        return RayWorkers(device, cache_root(), None if text == "ray" else text)
    return None if int(text) == 1 else LocalWorkers(int(text), device)


def export(
    folder: o.RunDir,
    to: Annotated[
        Path | None, o.option("A new folder; default: the run's own.", "--to", metavar="DIR")
    ] = None,
    with_references: Annotated[
        bool, o.option("Put references and floors of the cache in.", "--with-references")
    ] = False,
) -> None:
    """Make a finished run a folder that can be copied to another machine and compared there."""
    from sunbench.bench.portable import export_run

    say(f"{export_run(folder, to, references=with_references)} can be copied")


def merge(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, on the same references.")],
    folder: Annotated[Path, o.option("Folder of the merged run.", "--out", metavar="DIR")],
) -> None:
    """Make one run of two on the same references, with the comparisons between their methods."""
    from sunbench.bench.portable import merge_runs
    from sunbench.report.tables import write_tables
    from sunbench.store import RunFolder

    merge_runs(first, second, folder)
    write_tables(RunFolder(folder))
    say(f"Tables: {folder / 'tables'}")
