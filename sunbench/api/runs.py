"""Runs from Python: measure, open, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sunbench.api.device import best_device
from sunbench.bench import Request
from sunbench.errors import UserError, unknown
from sunbench.report.answer import Pick, answer, picks
from sunbench.report.choice import default_distance
from sunbench.report.data import RunData, model_names, read_run
from sunbench.run_options import IMAGES
from sunbench.store import CellReader, RunFolder, readers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from PIL import Image

Names = str | Sequence[str]


class Run:
    """A finished run; its results are read once, its images when they are asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = RunFolder(Path(folder))
        self.data: RunData = read_run(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r}, models={self.models})"

    @property
    def models(self) -> list[str]:
        """Names of its models."""
        return model_names(self.data.rows)

    def table(self) -> pd.DataFrame:
        """A line per model, method, steps and metric: value, 95 % interval, N, reason of a gap."""
        from sunbench.report.tables import results_frame

        return results_frame(self.data.rows)

    def times(self) -> pd.DataFrame:
        """A line per method and batch size: latency, throughput and speed-up of the timing pass."""
        from sunbench.report.times import timing_frame

        return timing_frame(self.data.timing)

    def pick(
        self,
        *,
        max_latency_ms: float | None = None,
        max_distance: float | None = None,
        metric: str | None = None,
    ) -> list[Pick]:
        """One method and number of steps per model: within a limit, else the recommended one.

        A pick has ``model``, ``point`` (None where nothing qualifies) and ``sentence``.
        """
        return picks(
            self.data.rows,
            self.data.times,
            self.data.win_rates,
            max_latency_ms=max_latency_ms,
            max_distance=max_distance,
            metric=metric,
        )

    def answer(self) -> list[str]:
        """The run's answer in words."""
        return answer(self.data.rows, self.data.times, self.data.win_rates)

    def images(
        self, prompt: str | int = 0, model: str | None = None, seed: int | None = None
    ) -> dict[str, Image.Image]:
        """The images of one prompt: "reference", then "ddim at 4 steps" and so on -> image.

        prompt: its text or its number; model, seed: default, the run's first.
        Errors: UserError for an unknown prompt or model, and where images were not kept.
        """
        from PIL import Image

        cells = self._readers(model or self.models[0])
        number = _prompt_number(cells[0], prompt)
        index = number * cells[0].seeds + _seed_number(cells[0], seed)
        names = ("reference" if c.role == "reference" else c.name for c in cells)
        images = ((name, c.row(index).image) for name, c in zip(names, cells, strict=True))
        pixels = {name: image for name, image in images if image is not None}
        if not pixels:
            raise UserError(
                f"{self.folder.path}: given no stored images, expected a run that kept them"
            )
        return {name: Image.fromarray(image) for name, image in pixels.items()}

    def _readers(self, model: str) -> list[CellReader]:
        """The cells of a model that were sampled, reference first."""
        records = {m.name: m for m in self.folder.read_run().models}
        if model not in records:
            raise unknown("model of this run", model, records)
        cells = readers(self.folder.path, records[model])
        if not cells:
            raise UserError(f"{model}: given no sampled cells, expected a finished run")
        return cells

    def figure(self, model: str | None = None, metric: str | None = None) -> Figure:
        """Distance against latency per image, as a matplotlib figure."""
        from sunbench.report.figures import pareto

        name = model or self.models[0]
        metric = metric or default_distance([r for r in self.data.rows if r.model == name])
        figure = metric and pareto(self.data.rows, self.data.times, name, metric)
        if not figure:
            raise UserError(f"{name}: given no latency and distance, expected both for a figure")
        return figure

    def report(self) -> Path:
        """Write the page, one self-contained HTML file; its path."""
        from sunbench.report.html.page import write_page

        return write_page(self.folder)


def _prompt_number(cell: CellReader, prompt: str | int) -> int:
    """The number of a prompt by its text or number."""
    count = cell.about.prompts.n
    if isinstance(prompt, int):
        if not 0 <= prompt < count:
            raise UserError(f"given prompt {prompt}, expected 0 to {count - 1}")
        return prompt
    for row in cell.rows():
        if row.prompt == prompt:
            return row.index // cell.seeds
    raise UserError(f"given prompt {prompt!r}, expected one of the run's {count} prompts")


def _seed_number(cell: CellReader, seed: int | None) -> int:
    """The place of a seed among those of each prompt; the first by default."""
    seeds = cell.about.seeds
    if seed is not None and seed not in seeds:
        raise UserError(f"given seed {seed}, expected one of {', '.join(map(str, seeds))}")
    return 0 if seed is None else seeds.index(seed)


def load(folder: str | Path) -> Run:
    """Open the folder of a finished run; UserError where it is none."""
    return Run(folder)


def run(
    models: Names | Path = "emoji-3d",
    methods: Names = ("ddim", "dpm++"),
    steps: int | Sequence[int] = (4, 8),
    *,
    nfe: int | Sequence[int] = (),
    images: int = IMAGES,
    seeds: int | Sequence[int] = 1,
    prompts: str | Path | None = None,
    column: str | None = None,
    negatives: str = "none",
    guidance_scale: float | None = None,
    weights: Mapping[str, str] | None = None,
    metrics: Names = (),
    floor: bool = True,
    timing: str = "short",
    task: str = "text2image",
    strength: float | None = None,
    mask: str = "center",
    sources: str | Path | None = None,
    controlnet: str | Path | None = None,
    resolution: int | None = None,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int | Literal["auto"] = 64,
    out: str | Path = "runs/latest",
    keep_images: bool = True,
    show_progress: bool = False,
) -> Run:
    """Measure methods on models into the folder ``out``, as `sunbench run` does.

    Arguments are those of the command line. nfe: budgets of U-Net evaluations, in place of steps.
    seeds: how many, or which. weights: METHOD or METHOD@MODEL -> path. What the folder holds
    already is not sampled again.

    Errors: UserError in one line for a wrong argument.
    """
    from sunbench.bench.run import execute
    from sunbench.registry import chosen
    from sunbench.report.tables import write_tables

    request = Request(
        models=tuple(map(str, _tuple(models))),
        methods=chosen(_tuple(methods)),
        steps=() if nfe else _tuple(steps),
        nfe=_tuple(nfe),
        images=images,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        prompts=None if prompts is None else str(prompts),
        column=column,
        negatives=negatives,
        guidance_scale=guidance_scale,
        weights=dict(weights or {}),
        metrics=_tuple(metrics),
        floor=floor,
        timing=timing,
        task=task,
        strength=strength,
        mask=mask,
        sources=None if sources is None else str(sources),
        controlnet=None if controlnet is None else str(controlnet),
        resolution=resolution,
        device=device or best_device(),
        dtype=dtype,
        batch=batch_size,
        keep_images=keep_images,
    )
    folder = Path(out)
    if show_progress:
        from rich.console import Console

        from sunbench.progress import ConsoleProgress

        with ConsoleProgress(Console()) as progress:
            execute(request, folder, progress)
    else:
        execute(request, folder)
    write_tables(RunFolder(folder))
    return Run(folder)


def _tuple(value: Any) -> tuple[Any, ...]:
    """One name or number as a tuple of it."""
    return (value,) if isinstance(value, (str, int, Path)) else tuple(value)
