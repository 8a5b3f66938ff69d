"""``sunbench score``: two sets of images, without a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.console import out, print_json, rich_table, say

Images = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="Folder of images, or a .parquet file.")
]
Reference = Annotated[
    Path, typer.Argument(metavar="REFERENCE", help="The same of the reference images.")
]
Prompts = Annotated[
    Path | None,
    o.option(
        "Table with a column of image names (id or file_name) and one of prompts.",
        panel=o.PROMPTS,
        metavar="FILE",
    ),
]
Metrics = Annotated[
    str,
    o.option(
        "Comma-separated metrics; default: ssim,psnr for paired sets, fid,kid for others.",
        panel=o.MEASURE,
        metavar="NAMES",
    ),
]


def score(
    images: Images,
    reference: Reference,
    prompts: Prompts = None,
    metrics: Metrics = "",
    device: o.Device = None,
    as_json: o.Json = False,
) -> None:
    """Compare two sets of images; they are paired when their file names are the same."""
    from sunbench.api.prompts import read_prompts
    from sunbench.api.scores import score as compare_sets

    scores = compare_sets(
        images,
        reference,
        None if prompts is None else read_prompts(prompts),
        metrics=o.split_names(metrics) or None,
        device=device or "cpu",
    )
    if as_json:
        print_json(asdict(scores))
        return
    lines = [
        [s.metric, _number(s.value), _interval(s.low, s.high), s.reason] for s in scores.scores
    ]
    out.print(rich_table("scores", ["metric", "value", "95 % interval", "note"], lines))
    pairs = "paired by name" if scores.paired else "not paired: no name is in both sets"
    say(f"{scores.n} images of {scores.clusters} prompts, {pairs}")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
