"""A finished run as something to compare: its rows, what they mean, and the scores behind them.

A light baseline is the same without pictures: ``results.json``, ``run.json`` and
``per_image.safetensors``, whose tensors ``<cell key>/<metric>`` hold one float32 an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sunbench.errors import NotAvailable, UserError
from sunbench.metrics import CellFeatures, PerImageMetric, clip_extractor
from sunbench.metrics.registry import MetricChoice, find
from sunbench.paths import cell_folder
from sunbench.store import (
    CellContent,
    CellStore,
    ResultRow,
    Role,
    RunFolder,
    ShardRow,
    key,
    write_atomic,
)

SCHEMA_VERSION = 1
FILE = "per_image.safetensors"
#: How far stored scores may average from their row: float32, and text embedded elsewhere.
_AGREE = 1e-3

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Recorded:
    """A cell as run.json tells of it, with the content of the reference it is compared with."""

    role: Role
    key: str
    label: str
    content: dict[str, Any]
    skip: str | None
    reference: dict[str, Any]

    @property
    def images(self) -> int:
        """How many images it holds."""
        return int(self.content["prompts"]["n"]) * len(self.content["seeds"])

    def folder(self, run: Path) -> Path:
        """Where it is kept: references and floors in the cache, the rest in the run."""
        return cell_folder(run, self.role, self.key)


class Kept:
    """A cell's shards, read by the sizes that its own content names; UserError for a bad one."""

    def __init__(self, cell: Recorded, run: Path) -> None:
        self.cell = cell
        folder = cell.folder(run)
        if cell.role != "candidate" and not folder.is_dir():
            raise UserError(
                f"{run}: its {cell.label} is not in {folder.parent}; name the cache that the run"
                " was made with in SUNBENCH_CACHE, or give the run's command again, which makes it"
            )
        self.store = CellStore.open(folder)
        self.layout = CellContent.of(cell.content, "content").layout
        self.shards = range(self.layout.shards)
        found = sum(int(self.store.manifest(k)["rows"]) for k in self.shards)
        if self.store.key != cell.key or found != cell.images:
            raise UserError(
                f"{self.store.folder}: given {found} images of cell {self.store.key}, "
                f"expected {cell.images} of {cell.key}"
            )

    def rows(self) -> list[ShardRow]:
        """All rows, in order, without pixels."""
        rows = (row for k in self.shards for row in self.store.read_rows(k))
        return sorted(rows, key=lambda row: row.index)

    def names(self, prefix: str) -> set[str]:
        """Features of this prefix that every shard has."""
        held = (set(self.store.feature_names(k)) for k in self.shards)
        return {n for n in set.intersection(*held) if n.startswith(prefix)}

    def feature(self, name: str) -> NDArray[Any] | None:
        """A feature of all images in order, or None where a shard lacks it."""
        parts = [self.store.read_features(k, name) for k in self.shards]
        found = [p for p in parts if p is not None]
        if len(found) != len(parts):
            return None
        whole = np.empty((self.layout.images, *found[0].shape[1:]), found[0].dtype)
        for k, part in enumerate(found):
            whole[self.layout.shard(k)] = part
        return whole


class Texts:
    """Prompt embeddings by network, each network loaded and each prompt list embedded once."""

    def __init__(self) -> None:
        self._networks: dict[str, Any] = {}
        self._held: dict[tuple[str, tuple[str, ...]], NDArray[Any]] = {}

    def of(self, net: str, weights: str, prompts: tuple[str, ...]) -> NDArray[Any] | None:
        """(prompts, d), or None when the network of these weights is not at hand."""
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

    cells: by role and key. values: per-image scores by cell key and metric, where they can be
    had.
    """

    path: Path
    rows: list[ResultRow]
    cells: dict[tuple[Role, str], Recorded]
    light: bool
    values: dict[tuple[str, str], Scores] = field(default_factory=dict)

    def cell(self, row: ResultRow) -> Recorded:
        """The cell behind a row; UserError when run.json does not tell of it."""
        found = self.cells.get((row.role, row.key))
        if found is None:
            raise UserError(
                f"{self.path}: results.json holds {row.name} of cell {row.key}, which run.json "
                "does not name; run again"
            )
        return found

    def of_model(self, model: str) -> list[Recorded]:
        """The cells of a model that could be run."""
        return [c for c in self.cells.values() if c.content["model"] == model and c.skip is None]


# ------------------------------------------------------------------------------ reading


def open_side(path: Path) -> Side:
    """A finished run or a light baseline without its scores; one clear UserError for a defect."""
    run = RunFolder(path)
    rows = run.read_results()
    cells = {(c.role, c.key): c for c in _recorded(run)}
    side = Side(path, rows, cells, (path / FILE).exists())
    for row in rows:
        side.cell(row)
    return side


def read_scores(side: Side, texts: Texts) -> None:
    """Fill in the scores; UserError for scores that are not those of the rows."""
    _read_light(side) if side.light else _read_run(side, texts)
    for row in side.rows:
        _check(side, row)


def _recorded(run: RunFolder) -> Iterator[Recorded]:
    for model in run.read_run().models:
        reference = model.of_role("reference")
        if reference is None:
            raise UserError(f"{run.run_file}: given no reference of {model.name}, expected one")
        for c in model.cells:
            if key(c.content) != c.key:
                raise UserError(f"{run.run_file}: {c.label}: its key is not that of its content")
            yield Recorded(c.role, c.key, c.label, c.content, c.skip, reference.content)


def _check(side: Side, row: ResultRow) -> None:
    """The scores that were found must be those that the row is the mean of."""
    cell = side.cell(row)
    scores = side.values.get((row.key, row.metric))
    if scores is None or row.value is None:
        return
    if len(scores) != row.n or row.n != cell.images or not agree(scores, row.value):
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
        with safe_open(file, "numpy") as held:
            about = json.loads((held.metadata() or {}).get("sunbench", "{}"))
            names = list(held.keys())
            arrays = {name: held.get_tensor(name) for name in names}
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{file} is broken or cut short ({error})") from error
    if about.get("schema_version") != SCHEMA_VERSION:
        given = about.get("schema_version")
        raise UserError(f"{file}: given schema_version {given!r}, expected {SCHEMA_VERSION}")
    for name, array in arrays.items():
        cell, _, metric = name.partition("/")
        side.values[cell, metric] = array


def _read_run(side: Side, texts: Texts) -> None:
    kept = {place: _kept(c, side.path) for place, c in side.cells.items() if c.skip is None}
    for row in side.rows:
        if row.value is None:
            continue
        cell, choice = side.cell(row), find(row.metric)
        reference = kept.get(("reference", key(cell.reference)))
        scores = _scores(kept[cell.role, cell.key], reference, choice, row.feature_key, texts)
        if scores is not None:
            side.values[row.key, row.metric] = scores.astype(np.float32)


def _kept(cell: Recorded, run: Path) -> Kept | None:
    """A cell's shards; None for a reference of a run that was made with another cache."""
    if cell.role != "candidate" and not cell.folder(run).is_dir():
        return None
    return Kept(cell, run)


def _scores(
    cell: Kept | None, reference: Kept | None, choice: MetricChoice, weights: str, texts: Texts
) -> NDArray[Any] | None:
    """The metric of every image; None where it has no such thing or it cannot be had here."""
    metric = choice.metric
    if cell is None or not isinstance(metric, PerImageMetric):
        return None
    name = choice.feature_name(weights, key(cell.cell.reference))
    features = cell.feature(name)
    if features is None:
        return None
    seeds = len(cell.cell.content["seeds"])
    clusters = np.arange(len(features)) // seeds
    theirs = words = None
    if metric.compares == "pairs" and metric.reads == "embeddings":
        theirs = None if reference is None else reference.feature(name)
        if theirs is None:
            return None
    if metric.compares == "text":
        prompts = tuple(r.prompt for r in cell.rows()[::seeds])
        words = texts.of(str(choice.net), weights, prompts)
        if words is None:
            return None
        words = words.repeat(seeds, 0)
    return metric.scores(CellFeatures(features, clusters, theirs, words))


# ------------------------------------------------------------------------------ writing


def write_light(side: Side, folder: Path) -> None:
    """Write a run as a light baseline; equal runs give equal bytes."""
    if folder.resolve() == side.path.resolve():
        raise UserError(f"given the run's own folder {folder}, expected another for its baseline")
    if side.light:
        raise UserError(f"{side.path}: given a light baseline, expected the folder of a run")
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"schema_version": SCHEMA_VERSION})
    arrays = {f"{k}/{m}": np.ascontiguousarray(v) for (k, m), v in sorted(side.values.items())}
    write_atomic(folder / FILE, save(arrays, {"sunbench": about}))
    for name in ("run.json", "results.json"):
        write_atomic(folder / name, (side.path / name).read_bytes())
