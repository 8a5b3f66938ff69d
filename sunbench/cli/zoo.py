"""``sunbench zoo``: the built-in models."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli.options import best_device, names

zoo_app = typer.Typer(help="The built-in models.")


@zoo_app.command("build")
def zoo_build(
    folder: Annotated[Path, typer.Option("--out", help="Where to build.")] = Path("build/zoo"),
    stages: Annotated[str, typer.Option(help="Some stages only, by commas.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    """Make the whole zoo again from the art packages; resumes where it stopped."""
    from sunbench.zoo.build import build

    logging.getLogger("sunbench").setLevel(logging.INFO)
    build(folder, names(stages), device or best_device())


@zoo_app.command("check")
def zoo_check(
    images: Annotated[int, typer.Option(help="Pictures a figure.")] = 256,
    sprites: Annotated[
        Path | None, typer.Option(help="sprites.safetensors of a build, for what needs real art.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where figures go.")] = Path("reports/zoo"),
) -> None:
    """Measure the zoo's quality and draw its sample sheets."""
    from sunbench.studies.zoo_check import check

    check(folder, images, sprites)


@zoo_app.command("path")
def zoo_path(name: Annotated[str, typer.Argument(help="A zoo model.")]) -> None:
    """The plain diffusers folder of a zoo model."""
    from sunbench.zoo import folder

    typer.echo(str(folder(name)))
