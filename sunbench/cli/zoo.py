"""``sunbench zoo``: the built-in models."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli import options as o
from sunbench.errors import UserError

zoo_app = typer.Typer(help="The built-in models.", no_args_is_help=True)


@zoo_app.command("build")
def zoo_build(
    folder: Annotated[Path, o.option("Folder of the build.", "--out")] = Path("build/zoo"),
    stages: Annotated[str, o.option("Comma-separated stages; default: all.", metavar="NAMES")] = "",
    device: o.Device = None,
    begin: Annotated[
        Path | None, o.option("Trained stages to begin with.", metavar="FOLDER")
    ] = None,
) -> None:
    """Rebuild the whole zoo from the art packages; continues an interrupted build."""
    logging.getLogger("sunbench").setLevel(logging.INFO)
    from sunbench.zoo.world.build import build

    build(folder, o.split_names(stages), device or o.best_device(), begin)


@zoo_app.command("check")
def zoo_check(
    images: Annotated[int, o.whole_number("images", "Images per figure.")] = 256,
    sprites: Annotated[
        Path | None, o.option("sprites.safetensors of a build, for what needs the art itself.")
    ] = None,
    folder: Annotated[Path, o.option("Folder of the figures.", "--out")] = Path("reports/zoo"),
) -> None:
    """Measure the zoo's quality, draw sample sheets; exit code 1: something falls short."""
    from sunbench.studies.zoo_check import check

    if images < 2:
        raise UserError(f"given {images} images per figure, expected at least 2")
    short = [one for one in check(folder, images, sprites) if one.passed is False]
    typer.echo(str(folder / "README.md"))
    if short:
        raise typer.Exit(1)


@zoo_app.command("goodhart")
def zoo_goodhart(
    model: Annotated[str, o.option("A model of the zoo.", metavar="NAME")] = "emoji-3d",
    updates: Annotated[int, o.whole_number("updates", "Updates of the training.")] = 300,
    batch: Annotated[
        int, o.whole_number("images", "Images per update; fewer is faster.", "--batch-size")
    ] = 32,
    captions: Annotated[
        int, o.whole_number("captions", "Captions to train on, none of them of the rows' images.")
    ] = 512,
    images: Annotated[int, o.whole_number("images", "Images per row.")] = 1000,
    device: o.Device = None,
    folder: Annotated[Path, o.option("Folder of the training and the runs.", "--out")] = Path(
        "runs/goodhart"
    ),
    page: Annotated[Path, o.option("The page.", "--page", metavar="FILE")] = Path(
        "reports/zoo/goodhart.md"
    ),
) -> None:
    """Train a student on fd[zoo-clip] itself and show what that metric is worth then."""
    from sunbench.studies.goodhart import Study, goodhart

    logging.getLogger("sunbench").setLevel(logging.INFO)
    chosen = device or o.best_device()
    study = Study(
        model, updates=updates, batch=batch, captions=captions, images=images, device=chosen
    )
    goodhart(study, folder, page)
    typer.echo(str(page))


@zoo_app.command("path")
def zoo_path(name: Annotated[str, typer.Argument(metavar="MODEL", help="A zoo model.")]) -> None:
    """Print the path of a zoo model, a plain diffusers folder."""
    from sunbench.zoo import folder

    typer.echo(str(folder(name)))
