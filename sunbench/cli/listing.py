"""``sunbench list``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.console import out, print_json, records, rich_table
from sunbench.errors import unknown

if TYPE_CHECKING:
    from sunbench.models import ModelCard

#: A table's head and its lines.
Listing = tuple[list[str], list[list[str]]]


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="methods, models, prompts, metrics or reference-sets; default: all.",
            metavar="KIND",
            autocompletion=lambda incomplete: [k for k in LISTS if k.startswith(incomplete)],
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """List the methods, models, prompt sets, metrics and reference sets that there are."""
    if kind is not None and kind not in LISTS:
        raise unknown("list", kind, LISTS)
    listings = {name: LISTS[name]() for name in ([kind] if kind else LISTS)}
    if as_json:
        documents = {name: records(*listing) for name, listing in listings.items()}
        print_json(documents[kind] if kind else documents)
        return
    for name, listing in listings.items():
        out.print(rich_table(name.replace("-", " "), *listing))


def _methods() -> Listing:
    from sunbench.registry import methods

    return ["name", "summary", "paper"], [[n, e.summary, e.paper] for n, e in methods().items()]


def _models() -> Listing:
    from sunbench.models import cards

    head = ["name", "source", "id", "revision", "guidance"]
    lines = [[n, c.source, c.id, _revision(c), f"{c.guidance_scale:g}"] for n, c in cards().items()]
    return head, lines


def _revision(card: ModelCard) -> str:
    """The pinned commit of a model of the hub, in short."""
    if card.source != "hub":
        return "–"
    return str(card.revision)[:8] if card.pinned else "NOT PINNED"


def _prompts() -> Listing:
    from sunbench import prompts

    head = ["name", "summary", "revision"]
    return head, [[n, s, _pinned(prompts.pinned(n))] for n, s in prompts.names().items()]


def _pinned(pinned: bool) -> str:
    return "pinned" if pinned else "NOT PINNED"


def _metrics() -> Listing:
    from sunbench.metrics.registry import metrics

    head = ["name", "summary", "protocol"]
    return head, [[m.name, m.summary, m.protocol] for m in metrics().values()]


def reference_listing() -> Listing:
    """Reference sets in the cache, then the recipes without one."""
    from sunbench.bench.references import listing
    from sunbench.reference_sets import recipes

    held = [r | {"sampler": f"{r['method']} {r['steps']}"} for r in listing()]
    rows = [[str(r[n]) for n in ("model", "role", "sampler", "images", "key")] for r in held]
    built = {r[0] for r in rows}
    rows += [
        [m, "reference", f"{r.method} {r.steps}", str(r.images), "not built"]
        for m, r in recipes().items()
        if m not in built
    ]
    return ["model", "role", "sampler", "images", "key"], rows


LISTS = {
    "methods": _methods,
    "models": _models,
    "prompts": _prompts,
    "metrics": _metrics,
    "reference-sets": reference_listing,
}
