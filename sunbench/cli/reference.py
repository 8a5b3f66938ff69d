"""``sunbench reference``: the cached 25-step sets."""

from __future__ import annotations

from typing import Annotated

import typer

from sunbench.cli.compare import print_verified
from sunbench.cli.console import out
from sunbench.cli.listing import reference_table
from sunbench.cli.options import best_device

reference_app = typer.Typer(help="The 25-step sets that methods are compared with.")


@reference_app.command("build")
def reference_build(
    models: Annotated[list[str], typer.Argument(help="Models.")],
    images: Annotated[int | None, typer.Option(help="Images; default: the recipe's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Images sampled at once.")] = 64,
) -> None:
    """Make the 25-step DPM-Solver++ set of each model in the cache."""
    from sunbench.bench.references import build
    from sunbench.progress import RichWatcher

    for model in models:
        with RichWatcher(out) as watcher:
            made = build(
                model,
                watcher,
                images=images,
                device=device or best_device(),
                dtype=dtype,
                batch=batch,
            )
        out.print(f"{model}: {made.new_shards} shards made")


@reference_app.command("list")
def reference_list() -> None:
    """The reference sets in the cache, and the recipes without one."""
    out.print(reference_table())


@reference_app.command("verify")
def reference_verify(
    models: Annotated[list[str] | None, typer.Argument(help="Models; default: all.")] = None,
) -> None:
    """Check every shard of the cached sets."""
    from sunbench.bench.references import verify as check

    print_verified(*check(tuple(models or ())), "reference sets")
