"""``sunbench reference``: the cached 25-step sets."""

from __future__ import annotations

from typing import Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.compare import print_verified
from sunbench.cli.console import out, rich_table, say
from sunbench.cli.listing import reference_listing

reference_app = typer.Typer(
    help="The 25-step sets that methods are compared with.", no_args_is_help=True
)


@reference_app.command("build")
def reference_build(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Models.")],
    images: Annotated[
        int | None,
        o.whole_number("images", "Number of images; default: the recipe's.", panel=o.PROMPTS),
    ] = None,
    device: o.Device = None,
    dtype: o.Dtype = "float32",
    batch_size: o.BatchSize = "64",
) -> None:
    """Sample the 25-step DPM-Solver++ set of each model into the cache."""
    from sunbench.bench.references import build_reference
    from sunbench.progress import ConsoleProgress

    for model in models:
        with ConsoleProgress(out) as progress:
            outcome = build_reference(
                model,
                progress,
                images=images,
                device=device or o.best_device(),
                dtype=dtype,
                batch=o.batch_size(batch_size),
            )
        say(f"{model}: {outcome.new_shards} shards sampled")


@reference_app.command("list")
def reference_list() -> None:
    """List the reference sets in the cache, and the recipes without one."""
    out.print(rich_table("reference sets", *reference_listing()))


@reference_app.command("verify")
def reference_verify(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Models; default: all.")
    ] = None,
) -> None:
    """Check every shard of the cached sets."""
    from sunbench.bench.references import verify as check

    print_verified(*check(tuple(models or ())), "reference sets")
