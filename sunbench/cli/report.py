"""``sunbench report`` and ``sunbench pick``: what a finished run says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.console import column_head, out, print_json, rich_table, say, tables

if TYPE_CHECKING:
    from sunbench.report.answer import Pick


def print_tables(folder: Path) -> None:
    """The tables of a finished run: results and latency, per model."""
    from sunbench.report.data import model_names, read_run
    from sunbench.report.headline import headline
    from sunbench.report.tables import FLOOR, notes
    from sunbench.report.texts import reasons, short_text
    from sunbench.report.times import flags, time_table
    from sunbench.store import RunFolder

    data = read_run(RunFolder(folder))
    for model in model_names(data.rows):
        rows = [r for r in data.rows if r.model == model]
        times = [t for t in data.times if t.model == model]
        head, lines = headline(rows, model, short_text, times, data.win_rates, data.set_pairs)
        title = f"{model}, {rows[0].n} images per row"
        lines = [["other seeds" if line[0] == FLOOR else line[0], *line[1:]] for line in lines]
        for part in tables(title, [*map(column_head, head)], lines, fixed=3):
            out.print(part)
        for note in notes(data, model):
            say(note)
        for reason in reasons(rows):
            say(f"n/a: {reason}")
        if any(line[0] == "other seeds" for line in lines):
            out.print("Other seeds: the floor, the reference against itself with other noise.\n")
        if times:
            out.print(rich_table("latency per image", *time_table(times)))
        for flag in flags(times):
            say(f"† {flag}")


def print_report(folder: Path) -> None:
    """The tables of a finished run, then the answer in words."""
    from sunbench.report.answer import answer
    from sunbench.report.data import read_run
    from sunbench.store import RunFolder

    print_tables(folder)
    data = read_run(RunFolder(folder))
    for sentence in answer(data.rows, data.times, data.win_rates):
        say(sentence)


Figures = Annotated[bool, o.option("Write figures/*.pdf and *.png for print.", "--figures")]
ModelCards = Annotated[
    bool, o.option("Write cards/*.md: a model card of each method's weights.", "--cards")
]


def report(
    folder: o.RunDir,
    html: Annotated[bool, o.option("Write report.html: one page, images and all.", "--html")] = (
        False
    ),
    figures: Figures = False,
    model_cards: ModelCards = False,
) -> None:
    """Write the tables again from results.json and print them; or write page, figures, cards."""
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


MaxLatencyMs = Annotated[
    float | None,
    o.real("max-latency-ms", "The closest within this latency per image, end to end at batch 1."),
]
MaxDistance = Annotated[
    float | None,
    o.real("max-distance", "The fastest within this distance from the reference."),
]
Metric = Annotated[
    str | None,
    o.option("The distance; default: LPIPS, else the run's first.", metavar="NAME"),
]


def pick(
    folder: o.RunDir,
    max_latency_ms: MaxLatencyMs = None,
    max_distance: MaxDistance = None,
    metric: Metric = None,
    as_json: o.Json = False,
) -> None:
    """Name one (method, steps) per model, by default the recommended one.

    Exit code 1: nothing qualifies for a model.
    """
    from sunbench.report.answer import picks
    from sunbench.report.data import read_run
    from sunbench.store import RunFolder

    data = read_run(RunFolder(folder))
    chosen = picks(
        data.rows,
        data.times,
        data.win_rates,
        max_latency_ms=max_latency_ms,
        max_distance=max_distance,
        metric=metric,
    )
    if as_json:
        print_json([_document(one) for one in chosen])
    else:
        for one in chosen:
            say(f"{one.model}: {one.sentence}")
    if any(one.point is None for one in chosen):
        raise typer.Exit(1)


def _document(one: Pick) -> dict[str, object]:
    """A pick for other programs; method and steps are null where nothing qualifies."""
    point = one.point
    return {
        "model": one.model,
        "method": None if point is None else point.row.method,
        "steps": None if point is None else point.row.steps,
        "latency_ms": None if point is None else point.latency_ms,
        "metric": None if point is None else point.row.metric,
        "distance": None if point is None else point.row.value,
        "sentence": one.sentence,
    }
