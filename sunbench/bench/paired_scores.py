"""A finished run as something to compare: its rows, what they mean, and the scores behind them.

A light baseline is the same without images: ``results.json``, ``run.json`` and
``per_image.safetensors``, whose tensors ``<cell key>/<metric>`` hold one float32 per image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from sunbench.errors import NotAvailable, UserError
from sunbench.metrics import CellFeatures, PerImageMetric, clip_extractor
from sunbench.metrics.registry import find_metric
from sunbench.store import CellReader, CellRecord, ResultRow, Role, RunFolder, key, write_atomic
from sunbench.store.files import make_folder, read_file
from sunbench.store.shared import settings_key
from sunbench.store.tensors import load_arrays, read_header

SCHEMA_VERSION = 1
FILE = "per_image.safetensors"
#: How far stored scores may average from their row: float32, and text embedded elsewhere.
_AGREE = 1e-3

Scores = NDArray[np.float32]


class Texts:
    """Prompt embeddings by network, each network loaded and each prompt list embedded once."""

    def __init__(self) -> None:
        self._networks: dict[str, Any] = {}
        self._held: dict[tuple[str, tuple[str, ...]], NDArray[Any]] = {}

    def of(self, net: str, weights: str, prompts: tuple[str, ...]) -> NDArray[Any] | None:
        """(prompts, d), or None when the network of these weights is not available."""
        if net not in self._networks:
            try:
                self._networks[net] = clip_extractor(net, "cpu")
            except NotAvailable:
                self._networks[net] = None
        network = self._networks[net]
        if network is None or network.key[:8] != weights:
            return None
        if (net, prompts) not in self._held:
            self._held[net, prompts] = network.embed_text(list(prompts)).cpu().numpy()
        return self._held[net, prompts]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    cells: by role and key. references: by model. values: per-image scores by cell key and metric,
    where they can be had.
    """

    path: Path
    rows: list[ResultRow]
    cells: dict[tuple[Role, str], CellRecord]
    references: dict[str, CellRecord]
    light: bool
    values: dict[tuple[str, str], Scores] = field(default_factory=dict)

    def cell(self, row: ResultRow) -> CellRecord:
        """The cell behind a row; UserError when run.json does not tell of it."""
        cell = self.cells.get((row.role, row.key))
        if cell is None:
            raise UserError(
                f"{self.path}: results.json holds {row.name} of cell {row.key}, which run.json "
                "does not name; run again"
            )
        return cell

    def reference(self, cell: CellRecord) -> CellRecord:
        """The reference that a cell is compared with."""
        return self.references[cell.about.model]

    def of_model(self, model: str) -> list[CellRecord]:
        """The cells of a model that could be run."""
        return [c for c in self.cells.values() if c.about.model == model and c.skip is None]


# ------------------------------------------------------------------------------ reading


def open_side(path: Path) -> Side:
    """A finished run or a light baseline without its scores; one clear UserError for a defect."""
    run = RunFolder(path)
    rows = run.read_results()
    references, cells = _recorded(run)
    side = Side(path, rows, cells, references, (path / FILE).exists())
    for row in rows:
        side.cell(row)
    return side


def read_scores(side: Side, texts: Texts) -> None:
    """Fill in the scores; UserError for scores that are not those of the rows."""
    _read_light(side) if side.light else _read_run(side, texts)
    for row in side.rows:
        _check(side, row)


def _recorded(
    run: RunFolder,
) -> tuple[dict[str, CellRecord], dict[tuple[Role, str], CellRecord]]:
    """The reference of each model by its name, and all cells by role and key."""
    references, cells = dict[str, CellRecord](), dict[tuple[Role, str], CellRecord]()
    for model in run.read_run().models:
        reference = model.of_role("reference")
        if reference is None:
            raise UserError(f"{run.run_file}: given no reference of {model.name}, expected one")
        references[reference.about.model] = reference
        for c in model.cells:
            if key(c.content) != c.key:
                raise UserError(f"{run.run_file}: {c.label}: its key is not that of its content")
            cells[c.role, c.key] = c
    return references, cells


def _check(side: Side, row: ResultRow) -> None:
    """The scores that were found must be those that the row is the mean of."""
    cell = side.cell(row)
    scores = side.values.get((row.key, row.metric))
    if scores is None or row.value is None:
        return
    if len(scores) != row.n or row.n != cell.about.images or not agree(scores, row.value):
        raise UserError(
            f"{side.path}: {row.name}: given {len(scores)} scores of mean {scores.mean():.6g}, "
            f"expected {row.n} of mean {row.value:.6g}; run again"
        )


def agree(scores: NDArray[Any], value: float) -> bool:
    """Whether a row's value is the mean of these scores."""
    return abs(float(scores.mean(dtype=np.float64)) - value) <= _AGREE * max(abs(value), 0.1)


def _read_light(side: Side) -> None:
    file = side.path / FILE
    try:
        about = json.loads(read_header(file).metadata.get("sunbench", "{}"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file} is broken or cut short ({error})") from error
    version = about.get("schema_version") if isinstance(about, dict) else about
    if version != SCHEMA_VERSION:
        raise UserError(f"{file}: given schema_version {version!r}, expected {SCHEMA_VERSION}")
    for name, array in load_arrays(file).items():
        cell, _, metric = name.partition("/")
        side.values[cell, metric] = array


def _read_run(side: Side, texts: Texts) -> None:
    readers = {place: _reader(c, side.path) for place, c in side.cells.items() if c.skip is None}
    for row in side.rows:
        if row.value is None:
            continue
        cell = side.cell(row)
        if cell.skip is not None:
            raise UserError(
                f"{side.path}: {row.name}: given a value, run.json says why there is none:"
                f" {cell.skip}"
            )
        reference = side.reference(cell)
        own, theirs = readers[row.role, row.key], readers.get(("reference", reference.key))
        scores = (
            None
            if own is None
            else _scores(own, theirs, row, settings_key(reference.content), texts)
        )
        if scores is not None:
            side.values[row.key, row.metric] = scores.astype(np.float32)


def _reader(cell: CellRecord, run: Path) -> CellReader | None:
    """A cell's reader; None for a reference of a run that was made with another cache."""
    reader = CellReader(cell, run)
    if cell.role != "candidate" and not reader.folder.is_dir():
        return None
    return reader.check()


def _scores(
    cell: CellReader, theirs: CellReader | None, row: ResultRow, reference: str, texts: Texts
) -> NDArray[Any] | None:
    """The metric of every image; None where it has no such thing or it cannot be had here.

    theirs: the reference's reader, if it is there; reference: the key of its settings.
    """
    choice = find_metric(row.metric)
    metric, name = choice.metric, choice.feature_name(row.feature_key, reference)
    if not isinstance(metric, PerImageMetric):
        return None
    features = cell.feature(name)
    if features is None:
        return None
    other = words = None
    if metric.compares == "pairs" and metric.reads == "embeddings":
        other = None if theirs is None else theirs.feature(name)
        if other is None:
            return None
    if metric.compares == "text":
        prompts = tuple(r.prompt for r in cell.rows()[:: cell.seeds])
        words = texts.of(str(choice.net), row.feature_key, prompts)
        if words is None:
            return None
        words = words.repeat(cell.seeds, 0)
    clusters = np.arange(len(features)) // cell.seeds
    return metric.scores(CellFeatures(features, clusters, other, words))


# ------------------------------------------------------------------------------ writing


def write_light(side: Side, folder: Path) -> None:
    """Write a run as a light baseline; equal runs give equal bytes."""
    if folder.resolve() == side.path.resolve():
        raise UserError(f"given the run's own folder {folder}, expected another for its baseline")
    if side.light:
        raise UserError(f"{side.path}: given a light baseline, expected the folder of a run")
    make_folder(folder)
    about = json.dumps({"schema_version": SCHEMA_VERSION})
    arrays = {f"{k}/{m}": np.ascontiguousarray(v) for (k, m), v in sorted(side.values.items())}
    write_atomic(folder / FILE, save(arrays, {"sunbench": about}))
    for name in ("run.json", "results.json"):
        write_atomic(folder / name, read_file(side.path / name))
