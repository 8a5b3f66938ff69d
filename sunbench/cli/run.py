"""``sunbench run``: sample, compare, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunbench.cli.console import out
from sunbench.cli.options import (
    WeightsOption,
    best_device,
    names,
    numbers,
    seed_list,
    weights_table,
)
from sunbench.cli.report import print_tables

if TYPE_CHECKING:
    from sunbench.bench import Request


def run(
    methods: Annotated[str, typer.Option(help="Methods, by commas.")] = "ddim,dpm++",
    models: Annotated[
        str, typer.Option(help="Cards, hub ids (owner/name@revision), folders or .safetensors.")
    ] = "emoji-3d",
    steps: Annotated[str, typer.Option(help="Numbers of steps, by commas.")] = "4,8",
    images: Annotated[int, typer.Option(help="Images a cell: prompts x seeds.")] = 1000,
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list: 0,1,2.")] = "1",
    prompts: Annotated[
        str | None, typer.Option(help="Prompt set, file or hub data set; default: the card's.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the prompts.")] = None,
    negatives: Annotated[str, typer.Option(help="none, default or sampled.")] = "none",
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; default: the card's.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="Metrics; default: the card's.")] = "",
    resolution: Annotated[int | None, typer.Option(help="Pixels a side.")] = None,
    task: Annotated[
        str, typer.Option(help="text2image, image2image, inpaint or controlnet.")
    ] = "text2image",
    strength: Annotated[
        float | None, typer.Option(help="Of image2image (0.5) and inpaint (1).")
    ] = None,
    mask: Annotated[
        str, typer.Option(help="Of inpaint: centre, left, right, top, bottom or a picture.")
    ] = "centre",
    sources: Annotated[
        str | None, typer.Option(help="Folder of source pictures; default: the model's own.")
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="A ControlNet on edges; default: the zoo's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the best.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Images sampled at once.")] = 64,
    keep_images: Annotated[bool, typer.Option(help="Store every picture, losslessly.")] = True,
    floor: Annotated[
        bool, typer.Option(help="Also compare the reference with itself at other seeds.")
    ] = True,
    weights: WeightsOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/latest"),
) -> None:
    """Sample every method, compare it with 25-step DPM-Solver++, print and write the tables."""
    from sunbench.bench import Request

    request = Request(
        models=names(models),
        methods=names(methods),
        steps=numbers(steps, "steps"),
        images=images,
        seeds=seed_list(seeds),
        prompts=prompts,
        column=column,
        negatives=negatives,
        guidance_scale=guidance,
        task=task,
        strength=strength,
        mask=mask,
        sources=sources,
        controlnet=controlnet,
        metrics=names(metrics),
        resolution=resolution,
        dtype=dtype,
        device=device or best_device(),
        batch=batch,
        keep_images=keep_images,
        floor=floor,
        weights=weights_table(weights),
    )
    _execute(request, folder)


def _execute(request: Request, folder: Path) -> None:
    from sunbench.bench.run import execute
    from sunbench.progress import RichWatcher

    with RichWatcher(out) as watcher:
        outcome = execute(request, folder, watcher)
    print_tables(folder)
    if outcome.black:
        out.print(f"[yellow]{outcome.black} all-black pictures[/] (counted, not dropped)")
    out.print(f"Tables: {folder / 'tables'}", highlight=False)
