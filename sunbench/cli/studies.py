"""``sunbench negatives`` and ``sunbench selftest``: studies beside the main job."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.console import say

Prompts = Annotated[
    str | None,
    o.option(
        "File or dataset with prompts, and in negative_prompt a concept of each.",
        panel=o.PROMPTS,
        metavar="NAME",
    ),
]
Folder = Annotated[Path, o.option("Folder of the tables and sheets.", "--out", panel=o.OUTPUT)]


def negatives(
    models: o.Models = "emoji-3d",
    methods: o.Methods = "sun,ddim",
    steps: o.Steps = "4,8",
    guidance: o.Guidance = None,
    weights: o.WeightsOption = None,
    images: o.Images = 200,
    seeds: o.Seeds = "1",
    prompts: Prompts = None,
    column: o.Column = None,
    device: o.Device = None,
    dtype: o.Dtype = "float32",
    batch_size: o.BatchSize = "64",
    folder: Folder = Path("runs/negatives"),
) -> None:
    """Measure how far a concept leaves the image when the negative prompt names it."""
    from sunbench.studies.negative_data import NegativesRequest
    from sunbench.studies.negative_prompts import measure
    from sunbench.studies.negative_tables import write

    request = NegativesRequest(
        models=o.split_names(models),
        methods=o.method_names(methods),
        steps=o.numbers(steps, "steps"),
        images=images,
        seeds=o.seed_list(seeds),
        prompts=prompts,
        column=column,
        guidance_scale=guidance,
        device=device or o.best_device(),
        dtype=dtype,
        batch=o.batch_size(batch_size),
        weights=o.weights_table(weights),
    )
    logging.getLogger("sunbench").setLevel(logging.INFO)
    write(folder, request, list(measure(request, folder)))
    say(f"Tables: {folder / 'negatives.md'}")


def selftest(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run with its images.")],
    model: Annotated[str | None, o.option("Model of the run; default: its first.")] = None,
    images: Annotated[int, o.whole_number("images", "Images per cell.", "--images")] = 256,
    device: o.Device = None,
    sampling: Annotated[
        bool,
        o.option("Also sample the method again with one thing wrong.", "--sampling/--no-sampling"),
    ] = True,
) -> None:
    """Plant faults into a run's images and show which metric catches which.

    Exit code 0: every fault is caught by some metric, 1: one is not.
    """
    from sunbench.studies.selftest_run import FILE, selftest_run

    result = selftest_run(
        folder, model, images=images, device=device or o.best_device(), sample=sampling
    )
    missed = result.uncaught()
    say(f"Caught by no metric: {', '.join(missed)}." if missed else "Every fault is caught.")
    say(f"Table: {folder / FILE}")
    raise typer.Exit(int(bool(missed)))
