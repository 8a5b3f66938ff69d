"""``sunbench fetch``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sunbench.cli.console import err, out, rich_table

if TYPE_CHECKING:
    from sunbench.models import ModelCard
    from sunbench.models.fetch import Download, Need


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Card name, card file or hub id owner/name@revision."),
]
Methods = Annotated[
    list[str] | None,
    typer.Argument(help="Methods whose published weights are fetched too.", metavar="METHOD"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show sizes and licenses, download nothing.")
]


def fetch(
    model: Model,
    methods: Methods = None,
    dry_run: DryRun = False,
) -> None:
    """Download what a run needs: sizes and licenses first, then weights and prompts."""
    from sunbench.models import find_model
    from sunbench.models.fetch import bring, check_room, known_architecture, look_up

    card = known_architecture(find_model(model))
    downloads = [look_up(need) for need in _needs(card, methods or [])]
    out.print(rich_table(f"fetch {card.name}", HEAD, [_line(download) for download in downloads]))
    check_room(downloads)
    if not card.pinned:
        err.print(
            f"{card.name}: revision NOT PINNED, its commit may change; see above", markup=False
        )
    networks = feature_networks(card)
    if dry_run:
        out.print(f"feature networks, not counted above: {', '.join(networks)}", markup=False)
        return
    total = sum(len(download.missing) for download in downloads)
    arrived = 0
    for download in downloads:

        def done(name: str, size: int, repository: str = download.need.repository) -> None:
            nonlocal arrived
            arrived += 1
            err.print(f"{arrived} of {total}: {repository} {name} ({_size(size)})", markup=False)

        bring(download, done)
    _fetch_networks(networks)
    _fetch_prompts(card)


def feature_networks(card: ModelCard) -> list[str]:
    """The networks of a model's default metrics."""
    from sunbench.bench.planner import default_metrics
    from sunbench.metrics.registry import find_metric

    networks = [find_metric(name).net for name in default_metrics(card)]
    return list(dict.fromkeys(n for n in networks if n is not None))


def _fetch_networks(networks: list[str]) -> None:
    """Load each network once, which keeps its weights for offline runs."""
    from sunbench.errors import NotAvailable
    from sunbench.metrics import load_network

    for name in networks:
        try:
            load_network(name, "cpu")
            out.print(f"feature network {name}: available", markup=False)
        except NotAvailable as error:
            err.print(f"feature network {name}: {error}", markup=False)


HEAD = ["what", "repository", "commit", "license", "files", "size", "to download"]


def _needs(card: ModelCard, methods: list[str]) -> Iterator[Need]:
    """The model's needs and the methods', those of weights that methods share once."""
    from sunbench import registry
    from sunbench.models.fetch import method_needs, model_needs

    ready = {name: registry.method(name) for name in methods}  # unknown names come first
    yield from model_needs(card)
    families = {
        weights.method: weights
        for method in ready.values()
        if (weights := getattr(method, "weights", None)) is not None
    }
    if card.architecture == "sd1":  # what is published is for Stable Diffusion 1
        for name, weights in families.items():
            yield from method_needs(name, weights)


def _line(download: Download) -> list[str]:
    need = download.need
    return [
        need.what,
        need.repository,
        download.commit[:8],
        download.license,
        str(len(download.sizes)),
        _size(sum(download.sizes.values())),
        _size(download.bytes_missing) if download.missing else "nothing",
    ]


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def _fetch_prompts(card: ModelCard) -> None:
    """Read the model's own prompts, which keeps them for offline runs."""
    from sunbench import prompts
    from sunbench.errors import NotAvailable

    try:
        loaded = prompts.load(card.prompts)
    except NotAvailable as error:
        err.print(str(error), markup=False)
        return
    out.print(f"{len(loaded):,} prompts of {card.prompts}, {loaded.license}", markup=False)
