"""``sunbench run``: sample, compare, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.config import config_text, load_config
from sunbench.cli.console import out, say
from sunbench.cli.report import print_report
from sunbench.cli.work import check_workers, parse_workers
from sunbench.run_options import IMAGES, TASKS, TIMINGS

if TYPE_CHECKING:
    from sunbench.bench import Request
    from sunbench.bench.outcome import Outcome


Nfe = Annotated[
    str,
    o.option(
        "Comma-separated budgets of U-Net evaluations per image, in place of --steps: each"
        " method takes the steps that they pay for.",
        panel=o.COMPARE,
        metavar="NUMBERS",
    ),
]
Floor = Annotated[
    bool, o.option("Also compare the reference with itself at other seeds.", panel=o.MEASURE)
]
Timing = Annotated[
    str, o.choice("timing", TIMINGS, "Timing pass at the end of the run.", o.MEASURE)
]
Strength = Annotated[
    float | None,
    o.real(
        "strength",
        "Strength of image2image (default 0.5) and inpaint (default 1).",
        panel=o.TASK,
    ),
]
Mask = Annotated[
    str,
    o.option(
        "Mask of inpaint: center, left, right, top, bottom or an image file.",
        panel=o.TASK,
        metavar="NAME",
    ),
]
Sources = Annotated[
    str | None,
    o.option(
        "Folder of source images; default: images by the model itself.",
        panel=o.TASK,
        metavar="DIR",
    ),
]
Controlnet = Annotated[
    str | None,
    o.option(
        "ControlNet on edges: folder or hub id; default: the zoo's.",
        panel=o.TASK,
        metavar="NAME",
    ),
]
Resolution = Annotated[
    int | None,
    o.whole_number("resolution", "Image size in pixels; default: the model's.", panel=o.TASK),
]
Workers = Annotated[
    str,
    o.option(
        "Who samples the images: auto, a number (1: this process; 0: only `sunbench work`"
        " elsewhere), ray, or ray://HOST:PORT.",
        panel=o.MACHINE,
        metavar="WHO",
    ),
]
Config = Annotated[
    Path | None,
    o.option(
        "TOML file with any of these options; flags override it.",
        panel=o.OUTPUT,
        callback=load_config,
        is_eager=True,
        metavar="FILE",
    ),
]
DryRun = Annotated[
    bool,
    o.option(
        "Only print the plan, and the config file that asks for it.",
        "--dry-run",
        panel=o.OUTPUT,
    ),
]


def run(
    context: typer.Context,
    models: o.Models = "emoji-3d",
    methods: o.Methods = "ddim,dpm++",
    steps: o.Steps = "4,8",
    nfe: Nfe = "",
    guidance: o.Guidance = None,
    weights: o.WeightsOption = None,
    images: o.Images = IMAGES,
    seeds: o.Seeds = "1",
    prompts: o.Prompts = None,
    column: o.Column = None,
    negatives: o.Negatives = "none",
    metrics: o.Metrics = "",
    floor: Floor = True,
    timing: Timing = "short",
    task: Annotated[str, o.choice("task", TASKS, "What to generate from.", o.TASK)] = (
        "text2image"
    ),
    strength: Strength = None,
    mask: Mask = "center",
    sources: Sources = None,
    controlnet: Controlnet = None,
    resolution: Resolution = None,
    device: o.Device = None,
    dtype: o.Dtype = "float32",
    batch_size: o.BatchSize = "64",
    workers: Workers = "auto",
    folder: Annotated[Path, o.option("Folder of the run.", "--out", panel=o.OUTPUT)] = Path(
        "runs/latest"
    ),
    keep_images: Annotated[bool, o.option("Store every image, losslessly.", panel=o.OUTPUT)] = True,
    config: Config = None,
    dry_run: DryRun = False,
) -> None:
    """Sample every method, compare it with 25-step DPM-Solver++, and print tables and answer.

    The same command continues an interrupted run.
    """
    from sunbench.bench import Request
    from sunbench.registry import chosen

    request = Request(
        models=o.split_names(models),
        methods=chosen(o.method_names(methods)),
        steps=() if nfe else o.numbers(steps, "steps"),
        nfe=o.numbers(nfe, "nfe"),
        images=images,
        seeds=o.seed_list(seeds),
        prompts=prompts,
        column=column,
        negatives=negatives,
        guidance_scale=guidance,
        task=task,
        strength=strength,
        mask=mask,
        sources=sources,
        controlnet=controlnet,
        metrics=o.split_names(metrics),
        resolution=resolution,
        dtype=dtype,
        device=device or o.best_device(),
        batch=o.batch_size(batch_size),
        weights=o.weights_table(weights),
        keep_images=keep_images,
        floor=floor,
        timing=timing,
    )
    if dry_run:
        _print_plan(request, folder)
        say("\n# the same as a file for --config\n" + config_text(context).rstrip())
    else:
        _execute(request, folder, workers)


def _print_plan(request: Request, folder: Path) -> None:
    from sunbench.bench.planner import bytes_needed, plan
    from sunbench.bench.power import add_power
    from sunbench.progress import ConsoleProgress

    plans = [model.whole for model in plan(request)]
    add_power(plans, request, folder)
    ConsoleProgress(out).print_plan(plans, sum(bytes_needed(plans, request.keep_images, folder)))


def _execute(request: Request, folder: Path, workers: str) -> None:
    from sunbench.bench.finished import finished_outcome
    from sunbench.report.tables import write_tables
    from sunbench.store import RunFolder

    check_workers(workers)
    outcome = finished_outcome(request, folder) or _measured(request, folder, workers)
    write_tables(RunFolder(folder))
    print_report(folder)
    if outcome.black:
        say(f"{outcome.black} all-black images (counted, not dropped)", style="yellow")
    say(f"Tables: {folder / 'tables'}")


def _measured(request: Request, folder: Path, workers: str) -> Outcome:
    """The outcome of a run of which something is still to be sampled or measured."""
    from sunbench.bench.run import execute
    from sunbench.progress import ConsoleProgress

    chosen = parse_workers(workers, request.device)
    with ConsoleProgress(out) as progress:
        return execute(request, folder, progress, workers=chosen)
