"""The self-test on the images of a finished run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.handles import read_shard
from sunbench.bench.paired_scores import Side, open_side
from sunbench.errors import UserError
from sunbench.store import CellReader, CellRecord, write_atomic
from sunbench.studies.faults import Material
from sunbench.studies.selftest import SelfTest, selftest

FILE = "selftest.md"


def selftest_run(
    path: Path, model: str | None = None, *, images: int = 256, device: str = "cpu"
) -> SelfTest:
    """Faults planted into the run's closest method at most steps; writes ``selftest.md`` into it.

    Further faults are cells of the run: the same method at its fewest steps, and the reference of
    each other model on the same prompts. images: so many of each cell, whole prompts.
    UserError for a run without a floor, a candidate, or kept images.
    """
    side = open_side(path)
    name = model or side.rows[0].model
    honest, seeds = _honest(side, name), len(_one(side, name, "reference").about.seeds)
    count = min(images, honest.about.images) // seeds * seeds
    if count < 4 * seeds:
        raise UserError(f"given {images} images, expected at least {4 * seeds} (4 prompts)")
    few = min(_of_method(side, honest), key=lambda c: c.about.steps)
    others = {"too few steps": few} if few.key != honest.key else {}
    others |= {f"images of {c.about.model}": c for c in _others(side, honest)}
    material = Material(
        _images(side, _one(side, name, "reference"), count),
        _images(side, honest, count),
        _images(side, _one(side, name, "floor"), count),
        {fault: _images(side, cell, count) for fault, cell in others.items()},
        np.arange(count) // seeds,
    )
    prompts = [r.prompt for r in CellReader(honest, path).rows()[:count:seeds]]
    metrics = dict.fromkeys(r.metric for r in side.rows if r.model == name)
    result = selftest(material, prompts, FeatureExtractors.load(tuple(metrics), device))
    title = f"# Self-test on {name}, faults planted into {honest.label} ({count} images)\n\n"
    note = "Numbers are changes in units of the metric's tolerance; bold where it is caught.\n\n"
    write_atomic(path / FILE, (title + note + result.markdown()).encode())
    return result


def _one(side: Side, model: str, role: str) -> CellRecord:
    cell = next((c for c in side.of_model(model) if c.role == role), None)
    if cell is None:
        raise UserError(f"{side.path}: given a run without a {role} of {model}, expected one")
    return cell


def _of_method(side: Side, cell: CellRecord) -> list[CellRecord]:
    """The candidates of a cell's method and model."""
    own = [c for c in side.of_model(cell.about.model) if c.role == "candidate"]
    return [c for c in own if c.about.method == cell.about.method]


def _honest(side: Side, model: str) -> CellRecord:
    """The candidate of most steps whose relative distance is the smallest."""
    rows = [r for r in side.rows if r.model == model and r.relative is not None]
    if not rows:
        raise UserError(f"{side.path}: given no candidate of {model} with a floor, expected one")
    return side.cell(min(rows, key=lambda r: (-r.steps, r.relative or 0.0)))


def _others(side: Side, honest: CellRecord) -> list[CellRecord]:
    """References of other models on the same prompts and seeds, of the same size."""
    terms = ("prompts", "seeds", "resolution")
    return [
        c
        for c in side.cells.values()
        if c.role == "reference"
        and c.about.model != honest.about.model
        and all(c.content[t] == honest.content[t] for t in terms)
    ]


def _images(side: Side, cell: CellRecord, count: int) -> Tensor:
    """The first images of a cell: uint8 (count, 3, H, W)."""
    import torch

    reader, images, numbers = CellReader(cell, side.path), list[Tensor](), list[int]()
    for k in reader.shards:
        wanted = [i for i in reader.layout.shard(k) if i < count]
        if wanted:
            images.append(read_shard(reader.store, k)[1][: len(wanted)])
            numbers += wanted
    return torch.cat(images)[torch.tensor(numbers).argsort()]
