"""The command line: each command a few lines over the library."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, JustifyMethod
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from sunbench import __version__
from sunbench.errors import UserError, unknown
from sunbench.paper.cli import app as paper_app

if TYPE_CHECKING:
    from sunbench.bench import Request

app = typer.Typer(
    name="sunbench",
    help="How much time does an accelerator gain on your model, and how far do the pictures move?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
reference_app = typer.Typer(help="The 25-step sets that methods are compared with.")
zoo_app = typer.Typer(help="The built-in models.")
app.add_typer(reference_app, name="reference")
app.add_typer(zoo_app, name="zoo")
app.add_typer(paper_app, name="paper")

out = Console()
err = Console(stderr=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(t.strip() for t in text.split(",") if t.strip())


def _numbers(text: str, what: str) -> tuple[int, ...]:
    try:
        return tuple(int(t) for t in _names(text))
    except ValueError:
        raise UserError(f"given {what} {text!r}, expected whole numbers like 4,8") from None


def _seeds(text: str) -> tuple[int, ...]:
    """``3`` means seeds 0, 1, 2; ``0,7`` means those two."""
    given = _numbers(text, "seeds")
    return given if "," in text else tuple(range(given[0])) if given else ()


def _table(title: str, head: list[str], lines: list[list[str]], wrap: bool = True) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(head):
        side: JustifyMethod = "right" if i else "left"
        table.add_column(escape(column), overflow="fold", justify=side, no_wrap=not wrap)
    for line in lines:
        table.add_row(*(escape(c) for c in line))
    return table


def _tables(title: str, head: list[str], lines: list[list[str]], fixed: int) -> list[Table]:
    """One table where the screen has the width, else several with the first columns in each."""

    def with_columns(start: int, end: int) -> Table:
        kept = [*range(fixed), *range(start, end)]
        rows = [[line[i] for i in kept] for line in lines]
        return _table(title if start == fixed else "", [head[i] for i in kept], rows, wrap=False)

    def fits(table: Table) -> bool:
        wide = out.options.update(max_width=10_000)  # else no table measures more than the screen
        return out.measure(table, options=wide).maximum <= out.width

    made: list[Table] = []
    start = fixed
    while start < len(head) or not made:
        end = len(head)
        while end > start + 1 and not fits(with_columns(start, end)):
            end -= 1
        made.append(with_columns(start, end))
        start = end
    return made


def _broken(metric: str) -> str:
    """A metric's column head in two lines, its direction in the first: narrower."""
    name, bracket, rest = metric.partition("[")
    features, _, arrow = rest.rpartition(" ")
    return f"{name} {arrow}\n[{features}" if bracket else metric


# ------------------------------------------------------------------------------ run


@app.command()
def run(
    methods: Annotated[str, typer.Option(help="Methods, by commas.")] = "ddim,dpm++",
    models: Annotated[
        str, typer.Option(help="Cards, hub ids (owner/name@revision), folders or .safetensors.")
    ] = "emoji-3d",
    steps: Annotated[str, typer.Option(help="Numbers of steps, by commas.")] = "4,8",
    images: Annotated[int, typer.Option(help="Images a cell: prompts x seeds.")] = 1000,
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list: 0,1,2.")] = "1",
    prompts: Annotated[
        str | None, typer.Option(help="Prompt set, file or hub data set; default: the card's.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the prompts.")] = None,
    negatives: Annotated[str, typer.Option(help="none, default or sampled.")] = "none",
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; default: the card's.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="Metrics; default: the card's.")] = "",
    resolution: Annotated[int | None, typer.Option(help="Pixels a side.")] = None,
    task: Annotated[
        str, typer.Option(help="text2image, image2image, inpaint or controlnet.")
    ] = "text2image",
    strength: Annotated[
        float | None, typer.Option(help="Of image2image (0.5) and inpaint (1).")
    ] = None,
    mask: Annotated[
        str, typer.Option(help="Of inpaint: centre, left, right, top, bottom or a picture.")
    ] = "centre",
    sources: Annotated[
        str | None, typer.Option(help="Folder of source pictures; default: the model's own.")
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="A ControlNet on edges; default: the zoo's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the best.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Images sampled at once.")] = 64,
    keep_images: Annotated[bool, typer.Option(help="Store every picture, losslessly.")] = True,
    floor: Annotated[
        bool, typer.Option(help="Also compare the reference with itself at other seeds.")
    ] = True,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/latest"),
) -> None:
    """Sample every method, compare it with 25-step DPM-Solver++, print and write the tables."""
    from sunbench.bench import Request

    request = Request(
        models=_names(models),
        methods=_names(methods),
        steps=_numbers(steps, "steps"),
        images=images,
        seeds=_seeds(seeds),
        prompts=prompts,
        column=column,
        negatives=negatives,
        guidance_scale=guidance,
        task=task,
        strength=strength,
        mask=mask,
        sources=sources,
        controlnet=controlnet,
        metrics=_names(metrics),
        resolution=resolution,
        dtype=dtype,
        device=device or _best_device(),
        batch=batch,
        keep_images=keep_images,
        floor=floor,
    )
    _execute(request, folder)


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _execute(request: Request, folder: Path) -> None:
    from sunbench.bench.run import execute
    from sunbench.progress import RichWatcher

    with RichWatcher(out) as watcher:
        outcome = execute(request, folder, watcher)
    _print_tables(folder)
    if outcome.black:
        out.print(f"[yellow]{outcome.black} all-black pictures[/] (counted, not dropped)")
    out.print(f"Tables: {folder / 'tables'}", highlight=False)


def _print_tables(folder: Path) -> None:
    from sunbench.report.tables import FLOOR, headline, models, reasons, short_text, time_table
    from sunbench.store import RunFolder

    finished = RunFolder(folder)
    rows = finished.read_results()
    times = finished.read_results_document().get("times", [])
    for model in models(rows):
        head, lines = headline(rows, model, short_text)
        title = f"{model}, {rows[0].n} images a row"
        lines = [["other seeds" if line[0] == FLOOR else line[0], *line[1:]] for line in lines]
        for table in _tables(title, [*map(_broken, head)], lines, fixed=3):
            out.print(table)
        for reason in reasons(r for r in rows if r.model == model):
            out.print(f"n/a: {escape(reason)}", highlight=False)
        if any(r.method == FLOOR for r in rows):
            out.print("Other seeds: the floor, the reference against itself with other noise.\n")
        out.print(
            _table("time of an image", *time_table([t for t in times if t["model"] == model]))
        )


@app.command()
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

        out.print(f"Page: {write_page(finished)}", highlight=False, soft_wrap=True, markup=False)
    if figures:
        from sunbench.report.figures import write_figures

        for path in write_figures(finished):
            out.print(f"Figure: {path}", highlight=False, soft_wrap=True, markup=False)
    if model_cards:
        from sunbench.report.weights_card import write_cards

        for path in write_cards(finished):
            out.print(f"Card: {path}", highlight=False, soft_wrap=True, markup=False)
    if not (html or figures or model_cards):
        _print_tables(folder)


@app.command()
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
        out.print(line, highlight=False, soft_wrap=True, markup=False)


@app.command()
def compare(
    baseline: Annotated[Path, typer.Argument(help="A finished run, or a light baseline.")],
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Rows that RUN lacks do not count.")
    ] = False,
    tolerances: Annotated[
        Path | None, typer.Option(help="TOML put over the package's tolerances.")
    ] = None,
    save_baseline: Annotated[
        bool,
        typer.Option(
            "--save-baseline",
            help="Given RUN DIR: write RUN's numbers and scores, no pictures, into DIR.",
        ),
    ] = False,
) -> None:
    """Is RUN worse than BASELINE? Exit code 0: no, 1: yes, 2: they cannot be compared."""
    from sunbench.regression import compare as gate
    from sunbench.regression.compare_page import HEAD, table, write_page
    from sunbench.regression.tolerances import load_tolerances

    if save_baseline:
        gate.save_baseline(baseline, folder)
        out.print(f"Baseline: {folder}", highlight=False, soft_wrap=True)
        return
    found = gate.compare(baseline, folder, load_tolerances(tolerances))
    if found.verdicts:
        out.print(_table("against the baseline", HEAD, table(found)))
    page = write_page(found, folder)
    (err if found.problems else out).print(escape(found.headline), highlight=False, soft_wrap=True)
    out.print(f"Page: {page}", highlight=False, soft_wrap=True)
    raise typer.Exit(found.exit_code(allow_missing))


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Check every checksum, key and pairing of a run."""
    from sunbench.bench.verify import verify_run

    _say_verified(*verify_run(folder), "cells")


def _say_verified(checked: int, problems: list[str], what: str) -> None:
    for problem in problems:
        err.print(escape(problem), style="red", highlight=False)
    if problems:
        raise typer.Exit(1)
    out.print(f"{checked} {what} checked: every checksum, key and pairing is right")


@app.command()
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
    folder: Annotated[Path, typer.Option("--out", help="Where the tables and sheets go.")] = Path(
        "runs/negatives"
    ),
) -> None:
    """How much does a concept leave the picture when the negative prompt names it?"""
    from sunbench.studies.negative_data import NegativesRequest
    from sunbench.studies.negative_prompts import measure
    from sunbench.studies.negative_tables import write

    request = NegativesRequest(
        models=_names(models),
        methods=_names(methods),
        steps=_numbers(steps, "steps"),
        images=images,
        seeds=_seeds(seeds),
        prompts=prompts,
        column=column,
        guidance_scale=guidance,
        device=device or _best_device(),
        dtype=dtype,
        batch=batch,
    )
    logging.getLogger("sunbench").setLevel(logging.INFO)
    write(folder, request, list(measure(request)))
    out.print(f"Tables: {folder / 'negatives.md'}", highlight=False, soft_wrap=True)


# ------------------------------------------------------------------------------ train


@app.command()
def train(
    method: Annotated[
        str,
        typer.Argument(
            help="What to train: sun, lcm, lcm-lora, guided-distill, boostdiff-lora or"
            " boostdiff-bitfit."
        ),
    ],
    base: Annotated[str, typer.Option(help="The frozen model: card, hub id, folder or file.")],
    folder: Annotated[Path, typer.Option("--out", help="Where to train; resumes what is there.")],
    config: Annotated[
        Path | None,
        typer.Option(help="TOML over the zoo's recipe or the paper's settings; [loop] for rates."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder with captions, .parquet, owner/name, or a zoo build's folder."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the best.")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Weights of this method to begin with, such as the base's for a fine-tune.",
        ),
    ] = None,
) -> None:
    """Train a method's own weights beside a frozen model; resumes to the bit where it stopped.

    sun: an adapter with negative prompts, for all fine-tunes of the base. lcm: a student U-Net
    with guidance as an input. lcm-lora: the same as a LoRA, for the fine-tunes too, at one
    guidance scale. guided-distill: guidance as an input, then half of the steps round by round;
    one student U-Net per number of steps, trained again for each fine-tune. boostdiff-lora,
    boostdiff-bitfit: one guidance scale in a small LoRA or in the biases.

    DIR receives the weights in the layout that the method reads (name them in SUNBENCH_METHOD, such
    as SUNBENCH_LCM_LORA), training.json with the settings, the base and the cost, README.md (a
    model card of these), loss.csv, its plot and sample sheets.

    Several GPUs: accelerate launch --num_processes N -m sunbench train …, with a multiple of N
    micro-batches an update (accumulate, under [loop]).
    """
    from sunbench.training.trainers import trainer
    from sunbench.training.workers import join, workers

    chosen = trainer(method)
    device = join(device or _best_device())
    first = workers().first
    logging.getLogger("sunbench").setLevel(logging.INFO if first else logging.ERROR)
    made = chosen(base, folder, config, data, device, start)
    if first:
        from sunbench.report.weights_card import write_beside

        write_beside(folder)
        out.print(f"Weights: {made}", highlight=False, soft_wrap=True, markup=False)


# ------------------------------------------------------------------------------ list

_LISTS = ("methods", "models", "prompts", "metrics", "reference-sets")


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help=", ".join(_LISTS))]) -> None:
    """What can be asked for."""
    if what not in _LISTS:
        raise unknown("list", what, _LISTS)
    out.print(_listing(what))


def _listing(what: str) -> Table:
    if what == "methods":
        from sunbench.registry import methods

        rows = [[n, e.summary, e.paper] for n, e in methods().items()]
        return _table("methods", ["name", "what", "paper"], rows)
    if what == "models":
        from sunbench.models import cards

        rows = [[n, c.source, c.id, f"{c.guidance_scale:g}"] for n, c in cards().items()]
        return _table("models", ["name", "source", "id", "guidance"], rows)
    if what == "prompts":
        from sunbench import prompts

        return _table("prompts", ["name", "what"], [[n, s] for n, s in prompts.names().items()])
    if what == "metrics":
        from sunbench.metrics.registry import METRICS

        rows = [[m.name, m.summary, m.protocol] for m in METRICS.values()]
        return _table("metrics", ["name", "what", "protocol"], rows)
    return _references()


def _references() -> Table:
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
    return _table("reference sets", ["model", "role", "sampler", "images", "key"], rows)


# ------------------------------------------------------------------------------ reference


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
                device=device or _best_device(),
                dtype=dtype,
                batch=batch,
            )
        out.print(f"{model}: {made.new_shards} shards made")


@reference_app.command("list")
def reference_list() -> None:
    """The reference sets in the cache, and the recipes without one."""
    out.print(_references())


@reference_app.command("verify")
def reference_verify(
    models: Annotated[list[str] | None, typer.Argument(help="Models; default: all.")] = None,
) -> None:
    """Check every shard of the cached sets."""
    from sunbench.bench.references import verify as check

    _say_verified(*check(tuple(models or ())), "reference sets")


# ------------------------------------------------------------------------------ zoo


@zoo_app.command("build")
def zoo_build(
    folder: Annotated[Path, typer.Option("--out", help="Where to build.")] = Path("build/zoo"),
    stages: Annotated[str, typer.Option(help="Some stages only, by commas.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    """Make the whole zoo again from the art packages; resumes where it stopped."""
    from sunbench.zoo.build import build

    logging.getLogger("sunbench").setLevel(logging.INFO)
    build(folder, _names(stages), device or _best_device())


@zoo_app.command("check")
def zoo_check(
    images: Annotated[int, typer.Option(help="Pictures a figure.")] = 256,
    sprites: Annotated[
        Path | None, typer.Option(help="sprites.safetensors of a build, for what needs real art.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where figures go.")] = Path("reports/zoo"),
) -> None:
    """Measure the zoo's quality and draw its sample sheets."""
    from sunbench.studies.zoo_check import check

    check(folder, images, sprites)


@zoo_app.command("path")
def zoo_path(name: Annotated[str, typer.Argument(help="A zoo model.")]) -> None:
    """The plain diffusers folder of a zoo model."""
    from sunbench.zoo import folder

    typer.echo(str(folder(name)))


# ------------------------------------------------------------------------------ doctor


@app.command()
def doctor() -> None:
    """Device, memory, disk, versions, and what is reachable offline."""
    from sunbench.doctor import examine

    out.print(_table("doctor", ["what", "found"], examine()))


@app.command()
def version() -> None:
    """The version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2."""
    handler = RichHandler(console=err, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        app()
    except UserError as error:
        err.print(f"[bold red]sunbench:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
