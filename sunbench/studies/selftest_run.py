"""The self-test on the images of a finished run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from sunbench import registry
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.handles import read_shard
from sunbench.bench.paired_scores import Side, open_side
from sunbench.bench.planner import load_model, prompt_set
from sunbench.bench.repair import recorded_request
from sunbench.bench.request import request_cards
from sunbench.errors import UserError
from sunbench.report.formats import plain
from sunbench.store import CellReader, CellRecord, write_atomic
from sunbench.studies.faults import Material
from sunbench.studies.sampled_faults import RERUN_BATCH, Asked, sampled_faults
from sunbench.studies.selftest import SelfTest, selftest

FILE = "selftest.md"


def selftest_run(
    path: Path,
    model: str | None = None,
    *,
    images: int = 256,
    device: str = "cpu",
    sample: bool = True,
) -> SelfTest:
    """Faults planted into the run's closest method at most steps; writes ``selftest.md`` into it.

    Further faults are cells of the run (the same method at its fewest steps, the reference of each
    other model on the same prompts) and, where sample is set, the method sampled again with one
    thing wrong (`sampled_faults`). images: so many of each cell, whole prompts.
    UserError for a run without a floor, a candidate, or kept images.
    """
    side = open_side(path)
    name = model or side.rows[0].model
    honest, seeds = _honest(side, name), len(_one(side, name, "reference").about.seeds)
    count = min(images, honest.about.images) // seeds * seeds
    if count < 4 * seeds:
        raise UserError(f"given {images} images, expected at least {4 * seeds} (4 prompts)")
    cells = {fault: _images(side, cell, count) for fault, cell in _faulty(side, honest).items()}
    prompts = [r.prompt for r in CellReader(honest, path).rows()[:count:seeds]]
    resampled: list[Tensor] = []
    if sample:
        asked = _asked(path, honest, prompts)
        resampled = [asked.sampled(RERUN_BATCH)]
        cells |= sampled_faults(asked)
    material = Material(
        _images(side, _one(side, name, "reference"), count),
        _images(side, honest, count),
        _images(side, _one(side, name, "floor"), count),
        cells,
        np.arange(count) // seeds,
    )
    metrics = dict.fromkeys(r.metric for r in side.rows if r.model == name)
    extractors = FeatureExtractors.load(tuple(metrics), device)
    result = selftest(material, prompts, extractors, resampled=resampled)
    write_atomic(path / FILE, _page(name, honest, count, result).encode())
    return result


def _faulty(side: Side, honest: CellRecord) -> dict[str, CellRecord]:
    """Cells of the run that stand for a fault, by its name."""
    few = min(_of_method(side, honest), key=lambda c: c.about.steps)
    cells = {"fewest steps of the run": few} if few.key != honest.key else {}
    return cells | {f"images of {c.about.model}": c for c in _others(side, honest)}


def _page(model: str, honest: CellRecord, count: int, result: SelfTest) -> str:
    return "\n\n".join(
        [
            f"# Self-test on {plain(model)}, faults planted into {plain(honest.label)}",
            f"Every row is a fault in {count} images, every column a"
            " metric against the reference. A number is the change that the fault makes, in units"
            " of the metric's tolerance; it is bold where the whole 95 % interval of the change is"
            " beyond the tolerance, that is, where the metric raises an alarm. The last row is the"
            " share of alarms over honest re-runs: changes that another batch size or thread count"
            " makes, which must raise none.",
            result.markdown(),
        ]
    )


def _asked(path: Path, honest: CellRecord, prompts: list[str]) -> Asked:
    """The honest cell on its first prompts; UserError where it cannot be sampled again."""
    request, about = recorded_request(path), honest.about
    if about.task != "text2image":
        raise UserError(f"given task {about.task}, expected text2image (or --no-sampling)")
    card = next((c for c in request_cards(request) if c.name == about.model), None)
    if card is None:
        raise UserError(f"{path}: its request does not name {about.model}; give --no-sampling")
    rows = prompt_set(card, request)
    first = replace(rows, rows=rows.rows[: len(prompts)])
    if [p.text for p in first.rows] != prompts:
        raise UserError(f"{path}: its prompts have changed since; give --no-sampling")
    loaded = load_model(card, request)
    method = registry.method(about.method, weights=request.weights, model=loaded.context)
    return Asked(loaded, first, method, about.steps, about.guidance_scale, about.seeds)


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
