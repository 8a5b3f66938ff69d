"""``sunbench paper``: the papers' tables and figures, each by one command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sunbench.cli.console import out, rich_table, tables
from sunbench.cli.options import WeightsOption, best_device, seed_list, split_names, weights_table
from sunbench.errors import unknown
from sunbench.paper.catalogue import Entry, entries

if TYPE_CHECKING:
    from sunbench.paper.page import Page
    from sunbench.paper.plan import Options
    from sunbench.progress import ConsoleProgress


class PaperGroup(TyperGroup):
    """Unknown tables are named with their nearest match, in one line."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; UserError for an unknown one."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise unknown("paper table", cmd_name, self.commands)
        return command


app = typer.Typer(
    cls=PaperGroup,
    no_args_is_help=True,
    help="The papers' tables and figures: paper's value, measured value, and why they differ.",
)

Models = Annotated[
    str,
    typer.Option(help="Comma-separated models; `zoo` or `paper` for all of theirs."),
]
Images = Annotated[int | None, typer.Option(help="Images per row: prompts x seeds.")]
Seeds = Annotated[str, typer.Option(help="Number of seeds, or a list: 0,1,2.")]
Prompts = Annotated[str | None, typer.Option(help="Prompt set in place of the protocol's.")]
Negatives = Annotated[str | None, typer.Option(help="none, default or sampled.")]
Run = Annotated[
    Path | None,
    typer.Option(
        help="Run to use; a table adds what it lacks, a figure draws it. Default: runs/paper/NAME."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the files; default: paper/ in the run.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; default: the best.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
Batch = Annotated[
    int | None, typer.Option("--batch-size", "--batch", help="Images sampled at once.")
]
Ablations = Annotated[
    Path | None,
    typer.Option(
        help="Folder of weights of other settings: sun-p0.0, bk-sdm-base-condconv (.safetensors)."
    ),
]


def _say(text: str) -> None:
    out.print(text, highlight=False, soft_wrap=True, markup=False)


def _place(entry: Entry, run: Path | None) -> Path:
    return Path("runs/paper") / entry.name if run is None else run


# ------------------------------------------------------------------------------ list


@app.command("list")
def list_() -> None:
    """List the papers' tables and figures and what each needs."""
    lines = [
        [e.name, e.kind, f"{e.protocol.title}, {e.number}", e.title, _state(e)]
        for e in entries().values()
    ]
    out.print(rich_table("papers", ["name", "kind", "paper", "what", "state"], lines))


def _state(entry: Entry) -> str:
    if entry.layout == "tasks":
        return "needs tasks beside text2image, and a SUN adapter"
    if any(r.method.startswith(("bk-sdm", "a-sdm", "switch")) for r in entry.rows):
        return "needs weights of bk-sdm and a-sdm"
    if any(p.adapter for p in entry.parts):
        return "needs SUN adapters of the ablation"
    return "needs a SUN adapter" if entry.needs_sun else "ready"


# ------------------------------------------------------------------------------ tables


def _register_measured(entry: Entry) -> None:
    def command(
        models: Models = "",
        images: Images = None,
        seeds: Seeds = "",
        prompts: Prompts = None,
        negatives: Negatives = None,
        run: Run = None,
        folder: Out = None,
        device: Device = None,
        dtype: Dtype = None,
        batch: Batch = None,
        ablations: Ablations = None,
        weights: WeightsOption = None,
    ) -> None:
        from sunbench.paper.plan import Options
        from sunbench.progress import ConsoleProgress

        options = Options(
            models=split_names(models),
            images=images,
            seeds=seed_list(seeds) if seeds else None,
            prompts=prompts,
            negatives=negatives,
            device=device or best_device(),
            dtype=dtype,
            batch=batch,
            ablations=ablations,
            weights=weights_table(weights),
        )
        place, make = _place(entry, run), _MAKE[entry.kind]
        with ConsoleProgress(out) as progress:
            show = make(entry, options, place, progress, run is not None)
        show(folder or place / "paper")

    asked = inspect.signature(command, eval_str=True)
    own = [p for p in asked.parameters.values() if p.name not in _WITHOUT.get(entry.kind, ())]
    command.__signature__ = asked.replace(parameters=own)  # type: ignore[attr-defined]
    _add(entry, command)


def _table(
    entry: Entry, options: Options, run: Path, progress: ConsoleProgress, reuse: bool
) -> Callable[[Path], None]:
    """Make a table; returns what shows it and writes its files into a folder."""
    from sunbench.paper.make import make_table

    page = make_table(entry, options, run, progress, reuse=reuse)
    return lambda folder: _show_table(page, folder)


def _figure(
    entry: Entry, options: Options, run: Path, progress: ConsoleProgress, reuse: bool
) -> Callable[[Path], None]:
    """Make a figure; returns what names its gaps and writes its files into a folder."""
    from sunbench.paper.make import make_figure
    from sunbench.paper.sheets import write_sheets

    sheets = make_figure(entry, options, run, progress, reuse=reuse)

    def show(folder: Path) -> None:
        for line in dict.fromkeys(m for sheet in sheets for m in sheet.missing):
            _say(f"missing: {line}")
        for path in write_sheets(sheets, folder):
            _say(f"Figure: {path}")

    return show


def _cost(
    entry: Entry, options: Options, run: Path, progress: ConsoleProgress, reuse: bool
) -> Callable[[Path], None]:
    """Measure costs; returns what shows the tables and writes their files into a folder."""
    from sunbench.paper.cost import make_cost

    pages = make_cost(entry, options, run, progress)

    def show(folder: Path) -> None:
        for page in pages:
            _show_table(page, folder)

    return show


#: By the kind of entry: what makes it, and the options that it has no use for.
_MAKE = {"table": _table, "figure": _figure, "cost": _cost}
_WITHOUT = {"figure": ("negatives",), "cost": ("negatives", "ablations")}


def _show_table(page: Page, folder: Path) -> None:
    """Print a table with its notes and write its files."""
    from sunbench.paper.page import write_formats

    for part in tables(page.title, list(page.head), [list(line) for line in page.lines], 2):
        out.print(part)
    for note in page.notes:
        _say(f"- {note}")
    for path in write_formats(page, folder):
        _say(f"Table: {path}")


def _register_timing(entry: Entry) -> None:
    def command(
        models: Annotated[
            str,
            typer.Option(help="Models; sd1.5-shape and sd2.1-shape need no weights."),
        ] = "",
        rounds: Annotated[int, typer.Option(help="Timed rounds; each method once per round.")] = 10,
        warm_up: Annotated[int, typer.Option(help="Untimed rounds before them.")] = 2,
        run: Annotated[
            Path | None,
            typer.Option(help="Folder of sun-3.json; models in it are not timed again."),
        ] = None,
        folder: Out = None,
        device: Device = None,
        dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    ) -> None:
        from sunbench.paper.timing import measured_times, timing_request
        from sunbench.paper.timing_page import page

        chosen, place = device or best_device(), _place(entry, run)
        specs = split_names(models) or _usual_shapes(entry, chosen)
        requests = {spec: timing_request(spec, chosen, dtype, rounds, warm_up) for spec in specs}
        for times in measured_times(place, requests, _say):
            _show_table(page(entry, times), folder or place / "paper")

    _add(entry, command)


def _usual_shapes(entry: Entry, device: str) -> tuple[str, ...]:
    """SD1.5's full shape where there is a GPU, else the zoo's base model."""
    return ("sd1.5-shape",) if device.startswith("cuda") else (entry.models[0].zoo,)


def _add(entry: Entry, command: Callable[..., None]) -> None:
    command.__doc__ = f"{entry.title} ({entry.number})."
    app.command(entry.name)(command)


_REGISTER = {
    "table": _register_measured,
    "figure": _register_measured,
    "cost": _register_measured,
    "timing": _register_timing,
}
for _entry in entries().values():
    _REGISTER[_entry.kind](_entry)
