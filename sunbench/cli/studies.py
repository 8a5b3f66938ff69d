"""``sunbench negatives``: studies beside the main job."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

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


def negatives(
    methods: Annotated[str, typer.Option(help="Methods, by commas.")] = "sun,ddim",
    models: Annotated[str, typer.Option(help="As for `run`.")] = "emoji-3d",
    steps: Annotated[str, typer.Option(help="Numbers of steps, by commas.")] = "4,8",
    images: Annotated[int, typer.Option(help="Prompts x seeds.")] = 200,
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list: 0,1,2.")] = "1",
    prompts: Annotated[
        str | None,
        typer.Option(help="File or data set with a prompt and its concept in negative_prompt."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the prompts.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; default: the card's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the best.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Images sampled at once.")] = 64,
    weights: WeightsOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the tables and sheets go.")] = Path(
        "runs/negatives"
    ),
) -> None:
    """How much does a concept leave the picture when the negative prompt names it?"""
    from sunbench.studies.negative_data import NegativesRequest
    from sunbench.studies.negative_prompts import measure
    from sunbench.studies.negative_tables import write

    request = NegativesRequest(
        models=names(models),
        methods=names(methods),
        steps=numbers(steps, "steps"),
        images=images,
        seeds=seed_list(seeds),
        prompts=prompts,
        column=column,
        guidance_scale=guidance,
        device=device or best_device(),
        dtype=dtype,
        batch=batch,
        weights=weights_table(weights),
    )
    logging.getLogger("sunbench").setLevel(logging.INFO)
    write(folder, request, list(measure(request)))
    out.print(f"Tables: {folder / 'negatives.md'}", highlight=False, soft_wrap=True)
