"""``sunbench list``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from sunbench.cli.console import out, table
from sunbench.errors import unknown

_LISTS = ("methods", "models", "prompts", "metrics", "reference-sets")


def list_(what: Annotated[str, typer.Argument(help=", ".join(_LISTS))]) -> None:
    """What can be asked for."""
    if what not in _LISTS:
        raise unknown("list", what, _LISTS)
    out.print(_listing(what))


def _listing(what: str) -> Table:
    if what == "methods":
        from sunbench.registry import methods

        rows = [[n, e.summary, e.paper] for n, e in methods().items()]
        return table("methods", ["name", "what", "paper"], rows)
    if what == "models":
        from sunbench.models import cards

        rows = [[n, c.source, c.id, f"{c.guidance_scale:g}"] for n, c in cards().items()]
        return table("models", ["name", "source", "id", "guidance"], rows)
    if what == "prompts":
        from sunbench import prompts

        return table("prompts", ["name", "what"], [[n, s] for n, s in prompts.names().items()])
    if what == "metrics":
        from sunbench.metrics.registry import metrics

        rows = [[m.name, m.summary, m.protocol] for m in metrics().values()]
        return table("metrics", ["name", "what", "protocol"], rows)
    return reference_table()


def reference_table() -> Table:
    """Reference sets in the cache, then the recipes without one."""
    from sunbench.bench.references import listing
    from sunbench.reference_sets import recipes

    rows = [
        [r["model"], r["role"], f"{r['method']} {r['steps']}", str(r["images"]), r["key"]]
        for r in listing()
    ]
    held = {r[0] for r in rows}
    rows += [
        [m, "reference", f"{r.method} {r.steps}", str(r.images), "not built"]
        for m, r in recipes().items()
        if m not in held
    ]
    return table("reference sets", ["model", "role", "sampler", "images", "key"], rows)
