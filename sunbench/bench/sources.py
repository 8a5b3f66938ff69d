"""Source images of the tasks that start from one: the model's own, or those of a folder.

Own sources are what the reference sampler (25-step DPM-Solver++) of the same model draws from
other noise, so that every task runs offline on any model, and is the same on every machine. Which
prompt they show depends on what would make the task trivial:

- image2image: the *next* prompt of the set. An image of the same prompt would be the answer
  already (the zoo's captions say all), and a method that changes nothing would win.
- inpaint, controlnet: the *same* prompt from another seed. What stays must agree with the text, as
  it does when people paint into images; the answer is hidden, by noise or behind edges.

Sources do not depend on the task's steps, method or seed offset: reference, floor and candidates
of image i all start from source i. They are a text2image cell of the cache, shared by all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sunbench.bench.cells import PlannedCell, reference_cell
from sunbench.bench.handles import CellHandle
from sunbench.bench.request import Request
from sunbench.errors import UserError
from sunbench.reference_sets import SOURCE_OFFSET
from sunbench.sampling import Cell
from sunbench.sampling.edges import FILTER
from sunbench.sampling.masks import NAMED
from sunbench.store import SourcesRecord, key, sha256_file
from sunbench.store.lossless import UNREADABLE, image_files, open_image

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet

#: How many prompts further in the set the source of a prompt is.
SHIFT = {"image2image": 1, "inpaint": 0, "controlnet": 0}

SourceImages = Callable[[range], Tensor]


@dataclass(frozen=True)
class SourcePlan:
    """A cell of the model's own images to be made, or the files of a folder, one per prompt."""

    own: PlannedCell | None = None
    shift: int = 0
    files: tuple[Path, ...] = ()

    def content(self) -> dict[str, object]:
        """For the keys of the cells that start from them."""
        if self.own is None:
            return {"sources": key([sha256_file(f) for f in self.files])}
        return {"sources": key(self.own.cell.content()), "source_shift": self.shift}

    def provenance(self) -> SourcesRecord:
        """For run.json: where the sources are from."""
        sources = str(self.content()["sources"])
        if self.own is None:
            return SourcesRecord(sources, files=tuple(f.name for f in self.files))
        record = replace(self.own.record, label=f"sources of {self.own.cell.model}")
        return SourcesRecord(sources, self.shift, cell=record)


def plan_sources(loaded: LoadedModel, rows: PromptSet, request: Request) -> SourcePlan | None:
    """Where the sources of a request come from; None for text2image."""
    if request.task == "text2image":
        return None
    if request.sources is not None:
        return SourcePlan(files=_files(Path(request.sources), len(rows)))
    channels = loaded.pipeline.unet.config.in_channels
    if channels != loaded.pipeline.vae.config.latent_channels:
        raise UserError(
            f"{loaded.card.name}: a U-Net of {channels} channels draws no sources from text alone,"
            " expected a folder of images: --sources DIR"
        )
    reference = reference_cell(loaded, rows, request)
    own = replace(reference, role="source", cell=source_cell(reference.cell))
    return SourcePlan(own, SHIFT[request.task])


def source_cell(reference: Cell) -> Cell:
    """The cell of the sources: the reference's images of texts alone, from other noise."""
    return replace(
        reference,
        task="text2image",
        task_content=(),
        weights=tuple(w for w in reference.weights if w[0] != "controlnet"),
        seeds=tuple(s + SOURCE_OFFSET for s in reference.seeds),
    )


def task_content(request: Request, plan: SourcePlan | None) -> tuple[tuple[str, Any], ...]:
    """What a task adds to the content of its cells; nothing for text2image."""
    if plan is None:
        return ()
    content: dict[str, Any] = plan.content()
    if request.task == "controlnet":
        content["edges"] = FILTER
    else:
        content["strength"] = request.chosen_strength
    if request.task == "inpaint":
        named = request.mask in NAMED
        content["mask"] = request.mask if named else sha256_file(Path(request.mask))
    return tuple(sorted(content.items()))


# ------------------------------------------------------------------------------ images


def open_sources(plan: SourcePlan, handle: CellHandle | None, cell: Cell) -> SourceImages:
    """Image indices of a task's cell -> their sources (B, 3, H, W) uint8."""
    if handle is not None:
        return CellSources(handle, plan.shift)
    return FolderSources(plan.files, len(cell.seeds), cell.resolution)


@dataclass(frozen=True)
class CellSources:
    """Sources in a cell of the model's own."""

    handle: CellHandle
    shift: int

    def __call__(self, indices: range) -> Tensor:
        """Sources of a run of images."""
        return torch.stack([self._image(self._place(i)) for i in indices])

    def _place(self, i: int) -> int:
        cell = self.handle.cell
        prompt, seed = divmod(i, len(cell.seeds))
        return (prompt + self.shift) % cell.n_prompts * len(cell.seeds) + seed

    def _image(self, place: int) -> Tensor:
        k, at = self.handle.cell.layout.place(place)
        return self.handle.images(k)[at]


@dataclass(frozen=True)
class FolderSources:
    """Sources in files, one per prompt, in the order of their names; shared by a prompt's seeds."""

    files: tuple[Path, ...]
    seeds: int
    side: int

    def __call__(self, indices: range) -> Tensor:
        """Sources of a run of images."""
        return torch.stack([read_source(self.files[i // self.seeds], self.side) for i in indices])


def _files(folder: Path, prompts: int) -> tuple[Path, ...]:
    images = image_files(folder)
    if len(images) < prompts:
        raise UserError(
            f"given {len(images)} source images in {folder}, expected one per prompt ({prompts})"
        )
    for file in images[:prompts]:
        with _opened(file):
            pass  # what is not an image is refused before anything is sampled
    return tuple(images[:prompts])


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with open_image(file) as image:
            yield image
    except UNREADABLE as error:
        raise UserError(f"given source {file}, which is not an image ({error})") from error


def read_source(file: Path, side: int) -> Tensor:
    """An image (3, side, side) uint8: the shortest side resized, the middle cut out."""
    with _opened(file) as image:
        whole = image.convert("RGB")
    scale = side / min(whole.size)
    width, height = (max(side, round(n * scale)) for n in whole.size)
    left, top = (width - side) // 2, (height - side) // 2
    sized = whole.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.array(sized.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
