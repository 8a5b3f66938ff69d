"""``sunbench report`` and ``sunbench pick``: what a finished run says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli.console import metric_head, out, say, table, tables


def print_tables(folder: Path) -> None:
    """The tables of a finished run: results and times, per model."""
    from sunbench.report.tables import FLOOR, headline, models, reasons, short_text, time_table
    from sunbench.store import RunFolder

    finished = RunFolder(folder)
    rows = finished.read_results()
    times = finished.read_results_document().get("times", [])
    for model in models(rows):
        head, lines = headline(rows, model, short_text)
        title = f"{model}, {rows[0].n} images a row"
        lines = [["other seeds" if line[0] == FLOOR else line[0], *line[1:]] for line in lines]
        for part in tables(title, [*map(metric_head, head)], lines, fixed=3):
            out.print(part)
        for reason in reasons(r for r in rows if r.model == model):
            say(f"n/a: {reason}")
        if any(r.method == FLOOR for r in rows):
            out.print("Other seeds: the floor, the reference against itself with other noise.\n")
        out.print(table("time of an image", *time_table([t for t in times if t["model"] == model])))


def print_report(folder: Path) -> None:
    """The tables of a finished run, then the answer in words."""
    from sunbench.report.answer import answer
    from sunbench.store import RunFolder

    print_tables(folder)
    finished = RunFolder(folder)
    document = finished.read_results_document()
    times, pairs = document.get("times", []), document.get("pairs", [])
    for sentence in answer(finished.read_results(), times, pairs):
        say(sentence)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    html: Annotated[
        bool, typer.Option("--html", help="Write report.html: one page, pictures and all.")
    ] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="Write figures/*.pdf and *.png for print.")
    ] = False,
    model_cards: Annotated[
        bool,
        typer.Option("--cards", help="Write cards/*.md: a model card of each method's weights."),
    ] = False,
) -> None:
    """Write the tables again from results.json, and print them; or page, figures or model cards."""
    from sunbench.report.tables import write_tables
    from sunbench.store import RunFolder

    finished = RunFolder(folder)
    finished.read_results()
    write_tables(finished)
    if html:
        from sunbench.report.html.page import write_page

        say(f"Page: {write_page(finished)}")
    if figures:
        from sunbench.report.figures import write_figures

        for path in write_figures(finished):
            say(f"Figure: {path}")
    if model_cards:
        from sunbench.report.weights_card import write_cards

        for path in write_cards(finished):
            say(f"Card: {path}")
    if not (html or figures or model_cards):
        print_report(folder)


def pick(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    max_latency_ms: Annotated[
        float | None, typer.Option(help="The closest within so many U-Net ms an image.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="The fastest within this distance from the reference.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The distance; default: LPIPS, else the run's first.")
    ] = None,
) -> None:
    """Name one (method, steps) a model: the closest in a time, or the fastest in a distance."""
    from sunbench.report.answer import pick_lines
    from sunbench.store import RunFolder

    finished = RunFolder(folder)
    rows, document = finished.read_results(), finished.read_results_document()
    times, pairs = document.get("times", []), document.get("pairs", [])
    for line in pick_lines(
        rows, times, pairs, max_latency_ms=max_latency_ms, max_loss=max_loss, metric=metric
    ):
        say(line)
