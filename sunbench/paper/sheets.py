"""The papers' figures as image sheets, from a run's shards: same prompts, same noise."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.paper.catalogue import Entry
from sunbench.paper.plan import SHEET_PROMPTS, Job, ModelMap, Options, request_of
from sunbench.paper.runs import PartRun
from sunbench.prompts import Prompt
from sunbench.store import CellReader, write_atomic
from sunbench.store.files import make_folder
from sunbench.store.names import file_stems

Image = NDArray[np.uint8]
STYLE: Any = {"font.size": 7, "pdf.fonttype": 42, "text.parse_math": False}
CELL = 0.9  # inches
WORDS = 18  # characters of small print that are as wide as a cell


@dataclass(frozen=True)
class Strip:
    """Images of one row of a sheet by column, or why there are none."""

    name: str
    images: tuple[Image | None, ...]
    absent: str | None = None


@dataclass(frozen=True)
class ImageSheet:
    """One figure: strips below each other under common column heads."""

    name: str
    caption: str
    columns: tuple[str, ...]
    strips: tuple[Strip, ...]

    @property
    def missing(self) -> list[str]:
        """One line for each strip without images."""
        return [f"{s.name}: {s.absent}" for s in self.strips if s.absent is not None]


# ------------------------------------------------------------------------------ reading


def image_numbers(cell: CellReader, prompts: int = SHEET_PROMPTS) -> list[int]:
    """Image numbers of a few prompts spread over the set, the first seed of each."""
    total = cell.images // cell.seeds
    spread = np.linspace(0, total - 1, min(prompts, total)).astype(int)
    return [int(i) * cell.seeds for i in dict.fromkeys(spread.tolist())]


def sheet_pixels(cell: CellReader | None, indices: Sequence[int]) -> list[Image | None]:
    """Pixels by image number; None where a cell or an image is not there."""
    if cell is None:
        return [None] * len(indices)
    rows = {r.index: r.image for r in cell.some(indices)}
    return [rows.get(i) for i in indices]


def prompts_of(cell: CellReader, indices: Sequence[int]) -> list[str]:
    """The prompts of these images."""
    rows = {r.index: r.prompt for r in cell.some(indices)}
    return [rows.get(i, "") for i in indices]


def _strip(name: str, groups: list[list[Image | None]], why: str) -> Strip:
    """groups: images by column group, then prompt; laid out prompt by prompt."""
    flat = tuple(p for group in zip(*groups, strict=True) for p in group)
    empty = all(p is None for p in flat)
    return Strip(name, flat, why if empty else None)


# ------------------------------------------------------------------------------ layouts


def _heads(kinds: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
    room = WORDS * len(kinds)  # a prompt runs over its own columns
    return tuple(
        f"{_short(text, room)}\n{kind}" if i == 0 else kind
        for text in prompts
        for i, kind in enumerate(kinds)
    )


def _short(text: str, most: int) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def by_rows(entry: Entry, models: ModelMap, parts: dict[str, PartRun]) -> list[ImageSheet]:
    """A strip per row: each prompt at every number of steps, the reference beside it."""
    out = []
    for card in models.cards:
        references = [run.reference(card.name) for run in parts.values()]
        reference = next((r for r in references if r is not None), None)
        if reference is None:
            raise UserError(f"{entry.name}: {_all_absent(entry, parts)}")
        indices = image_numbers(reference)
        strips = []
        for row in entry.rows:
            run = parts[row.part]
            columns = [
                sheet_pixels(run.candidate(card.name, row.method, s), indices) for s in entry.steps
            ]
            why = run.why_not(card.name, row.method)
            strip = _strip(row.name, columns, why)
            if strip.absent is None:
                strip = _strip(row.name, [*columns, sheet_pixels(reference, indices)], why)
            strips.append(strip)
        kinds = [*(f"{s} steps" for s in entry.steps), f"reference ({reference.about.steps})"]
        heads = _heads(kinds, prompts_of(reference, indices))
        out.append(
            ImageSheet(
                f"{entry.name}-{card.name}", _caption(entry, card.name), heads, tuple(strips)
            )
        )
    return out


def _all_absent(entry: Entry, parts: dict[str, PartRun]) -> str:
    reasons = dict.fromkeys(r.absent or "no reference in its run" for r in parts.values())
    return "; ".join(reasons)


def by_variants(
    entry: Entry, models: ModelMap, variants: Sequence[tuple[str, PartRun]], note: str
) -> list[ImageSheet]:
    """A strip per variant of the run: the reference, then every method, prompt by prompt."""
    return [_variant_sheet(entry, card.name, variants, note) for card in models.cards]


def _variant_sheet(
    entry: Entry, model: str, variants: Sequence[tuple[str, PartRun]], note: str
) -> ImageSheet:
    strips: list[Strip] = []
    heads: tuple[str, ...] = ()
    places = [(row, steps) for row in entry.rows for steps in entry.steps]
    for name, run in variants:
        reference = run.reference(model)
        if reference is None:
            raise UserError(f"{entry.name}: {run.absent or 'no reference in its run'}")
        indices = image_numbers(reference)
        columns = [sheet_pixels(reference, indices)]
        columns += [sheet_pixels(run.candidate(model, row.method, s), indices) for row, s in places]
        strips.append(_strip(name, columns, "its images are not in this run"))
        kinds = [f"{row.name} ({s})" for row, s in places]
        kinds = [f"reference ({reference.about.steps})", *kinds]
        heads = _heads(kinds, prompts_of(reference, indices))
    caption = " ".join([_caption(entry, model), *([note] if note else [])])
    return ImageSheet(f"{entry.name}-{model}", caption, heads, tuple(strips))


def _caption(entry: Entry, model: str) -> str:
    return (
        f"{entry.number} of {entry.protocol.title}, on {model}. {entry.title}."
        " The reference is DPM-Solver++ from the same noise."
    )


# ------------------------------------------------------------------------------ negatives


def negative_jobs(
    entry: Entry, models: ModelMap, job: Job, prompts: Sequence[Prompt], options: Options
) -> list[Job]:
    """A run per negative prompt; equal ids give equal noise, so that only the negative differs."""
    out = []
    prompt_files = job.folder / "prompts"
    make_folder(prompt_files)
    for i, negative in enumerate(entry.zoo_negatives if models.small else entry.negatives):
        file = prompt_files / f"negative-{i}.csv"
        write_atomic(file, _prompts_csv(prompts, negative).encode())
        request = request_of(entry, job.part, models, options, prompts=str(file))
        out.append(Job(job.part, job.folder / f"negative-{i}", request))
    return out


def _prompts_csv(prompts: Sequence[Prompt], negative: str) -> str:
    rows = [(p.id, p.text, negative) for p in prompts]
    frame = pd.DataFrame(rows, columns=["id", "prompt", "negative_prompt"])
    return str(frame.to_csv(index=False, lineterminator="\n"))


# ------------------------------------------------------------------------------ drawing


def draw(sheet: ImageSheet) -> Figure:
    """The sheet for print; strips without images say why."""
    lines, columns = len(sheet.strips), len(sheet.columns)
    width = max(6.0, 1.0 + CELL * columns)
    figure = Figure(figsize=(width, 0.6 + (CELL + 0.1) * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    for line, strip in zip(grid, sheet.strips, strict=True):
        for j, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
            image = strip.images[j] if j < len(strip.images) else None
            if image is not None:
                axes.imshow(image, interpolation="nearest")
        line[0].set_ylabel(fill(strip.name, WORDS), fontsize=7)
        if strip.absent is not None:
            reason = line[0].text(0, 0.5, _short(strip.absent, 140), fontsize=6)
            reason.set_in_layout(False)  # it runs over the empty cells beside it
    for axes, head in zip(grid[0], sheet.columns, strict=True):
        prompt, _, kind = head.rpartition("\n")
        axes.set_title(f"\n{kind}", fontsize=6, loc="left")
        above = {"xytext": (0, 13), "textcoords": "offset points"}
        label = axes.annotate(prompt, (0, 1), xycoords="axes fraction", fontsize=6, **above)
        label.set_in_layout(False)  # it runs over its prompt's columns
    figure.supxlabel(fill(sheet.caption, int(width * 20)), fontsize=6, x=0.01, ha="left")
    return figure


def write_sheets(sheets: Sequence[ImageSheet], folder: Path) -> list[Path]:
    """Write every sheet as PNG and PDF with its caption beside it; returns the paths."""
    make_folder(folder)
    stems = file_stems(sheet.name for sheet in sheets)
    out = []
    with rc_context(STYLE):
        for sheet in sheets:
            figure, stem = draw(sheet), stems[sheet.name]
            for suffix, about in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                data = io.BytesIO()
                figure.savefig(data, format=suffix, dpi=200, metadata=about)
                out.append(_put(folder / f"{stem}.{suffix}", data.getvalue()))
            out.append(_put(folder / f"{stem}.md", _page(sheet, stem).encode()))
    return out


def _put(path: Path, data: bytes) -> Path:
    write_atomic(path, data)
    return path


def _page(sheet: ImageSheet, stem: str) -> str:
    lines = [f"![{stem}]({stem}.png)", sheet.caption]
    return "\n\n".join([*lines, *(f"Missing: {m}" for m in sheet.missing)]) + "\n"
