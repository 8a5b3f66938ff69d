"""The one reader of a finished cell: its whole features, or a few images out of many shards."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from sunbench.errors import UserError
from sunbench.paths import cell_folder
from sunbench.store import rows as parquet
from sunbench.store.cells import CellStore
from sunbench.store.documents import CellContent, CellRecord, ModelRecord, Role
from sunbench.store.files import open_file, read_file
from sunbench.store.layout import CellLayout
from sunbench.store.manifest import ShardFiles, stem, unseal
from sunbench.store.rows import ShardRow

_BROKEN = (OSError, KeyError, TypeError, UserError, SafetensorError, pa.ArrowException)


class CellReader:
    """A cell that run.json lists, read by the sizes that its own content names.

    ``row``, ``rows``, ``names`` and ``feature`` check whole shards and raise UserError for a
    missing or broken one. ``some`` and ``scores`` are for reports, which touch little of many
    shards: they trust the manifests, check what they read and leave out what is missing or broken.
    Nothing is written or moved.
    """

    def __init__(self, record: CellRecord, run: Path) -> None:
        self.record, self.run = record, run
        self.folder = cell_folder(run, record.role, record.key)

    @property
    def role(self) -> Role:
        """Its part in the run."""
        return self.record.role

    @property
    def key(self) -> str:
        """The key of its content."""
        return self.record.key

    @property
    def skip(self) -> str | None:
        """Why it could not be sampled."""
        return self.record.skip

    @property
    def about(self) -> CellContent:
        """What the cell's content says."""
        return self.record.about

    @property
    def name(self) -> str:
        """In words: "ddim at 4 steps"."""
        method = "reference" if self.role == "reference" else self.about.method
        return f"{method} at {self.about.steps} steps"

    @property
    def layout(self) -> CellLayout:
        """Which images its shards hold."""
        return self.about.layout

    @property
    def images(self) -> int:
        """How many images it holds."""
        return self.layout.images

    @property
    def seeds(self) -> int:
        """Images per prompt."""
        return self.layout.seeds

    @property
    def shards(self) -> range:
        """Numbers of its shards."""
        return range(self.layout.shards)

    @cached_property
    def store(self) -> CellStore:
        """Its checked store; UserError unless every shard is there, whole and this cell's."""
        record = self.record
        if record.role != "candidate" and not self.folder.is_dir():
            raise UserError(
                f"{self.run}: its {record.label} is not in {self.folder.parent}; name the cache"
                " that the run was made with in SUNBENCH_CACHE, or give the run's command again,"
                " which makes it"
            )
        store = CellStore(self.folder, record.content, repair=False)
        stored = sum(int(store.manifest(k)["rows"]) for k in self.shards)
        if store.key != record.key or stored != self.images:
            raise UserError(
                f"{store.folder}: given {stored} images of cell {store.key}, "
                f"expected {self.images} of {record.key}"
            )
        return store

    # -------------------------------------------------------------------------- whole shards

    def check(self) -> Self:
        """Itself; UserError unless every shard is there, whole and this cell's."""
        self.store  # noqa: B018
        return self

    def row(self, index: int) -> ShardRow:
        """One image's row, with pixels where they were kept."""
        k, _ = self.layout.place(index)
        return self.store.read_rows(k, images=True, only=(index,))[0]

    def rows(self) -> list[ShardRow]:
        """All rows, in order, without pixels."""
        rows = (row for k in self.shards for row in self.store.read_rows(k))
        return sorted(rows, key=lambda row: row.index)

    def names(self, prefix: str) -> set[str]:
        """Features of this prefix that every shard has."""
        stored = (set(self.store.feature_names(k)) for k in self.shards)
        return {n for n in set.intersection(*stored) if n.startswith(prefix)}

    def feature(self, name: str) -> NDArray[Any] | None:
        """A feature of all images in order, or None where a shard lacks it."""
        return whole_feature(self.store, self.layout, name)

    # -------------------------------------------------------------------------- what is there

    def some(self, indices: Iterable[int]) -> Iterator[ShardRow]:
        """Rows of these images, with pixels where kept; missing or broken ones are left out."""
        by_shard: dict[int, list[int]] = {}
        for i in sorted(set(indices)):
            by_shard.setdefault(self.layout.place(i)[0], []).append(i)
        for k, numbers in by_shard.items():
            yield from self._some(k, numbers)

    def _some(self, k: int, numbers: Sequence[int]) -> Iterator[ShardRow]:
        manifest = self._manifest(k)
        if manifest is None:
            return
        try:
            file = self.folder / manifest["images"]["file"]
            with open_file(file) as data:
                yield from parquet.read_rows(data, file.name, images=True, only=numbers)
        except _BROKEN:
            return

    def scores(self, prefix: str) -> NDArray[np.float64]:
        """The score of every image, from the feature whose name begins so; NaN where missing."""
        out = np.full(self.images, np.nan)
        for k in self.shards:
            part = self._scores(k, prefix)
            if part is not None:
                out[self.layout.shard(k)[: len(part)]] = part
        return out

    def _scores(self, k: int, prefix: str) -> NDArray[Any] | None:
        manifest = self._manifest(k)
        features = {} if manifest is None else manifest["features"]
        entry = next((e for n, e in features.items() if n.startswith(prefix)), None)
        if entry is None:
            return None
        try:
            data = read_file(self.folder / entry["file"])
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                return None
            array = load(data)["features"]
        except _BROKEN:
            return None
        return array if array.ndim == 1 else None

    def _manifest(self, k: int) -> ShardFiles | None:
        """Shard k's list of files, or None when it is missing or broken."""
        file = self.folder / f"{stem(k)}.json"
        try:
            return unseal(read_file(file), str(file), self.key, k)
        except UserError:
            return None


def readers(run: Path, model: ModelRecord) -> list[CellReader]:
    """Readers of a model's sampled cells: its reference, then its candidates."""
    sampled = [c for c in model.cells if c.skip is None and c.role in ("reference", "candidate")]
    return [CellReader(c, run) for c in sorted(sampled, key=lambda c: c.role != "reference")]


class StoredFeature:
    """A feature of a cell, read block by block of prompts in the order of images.

    Raises UserError for a missing or broken shard, one without the feature, and for another number
    of images.
    """

    def __init__(self, store: CellStore, layout: CellLayout, name: str) -> None:
        self.store, self.layout, self.name = store, layout, name
        first = self._read(0)
        self._row_shape, self._itemsize = first.shape[1:], first.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, ...)."""
        return (self.layout.images, *self._row_shape)

    @property
    def nbytes(self) -> int:
        """Of all rows in memory."""
        return math.prod(self.shape) * self._itemsize

    def __len__(self) -> int:
        return self.layout.images

    def parts(self) -> Iterator[NDArray[Any]]:
        """The images of a block of prompts, all seeds of a prompt side by side."""
        seeds = self.layout.seeds
        for first in range(0, self.layout.shards, seeds):
            shards = [self._read(k) for k in range(first, first + seeds)]
            yield np.stack(shards, 1).reshape(-1, *self._row_shape)

    def _read(self, k: int) -> NDArray[Any]:
        rows, wanted = self.store.read_features(k, self.name), len(self.layout.shard(k))
        if rows is None:
            raise UserError(f"{self.store.folder}: feature {self.name!r} is missing; run again")
        if len(rows) != wanted:
            stored = self.layout.images - wanted + len(rows)
            raise UserError(
                f"{self.store.folder}: {stored} images, expected {self.layout.images}"
                f" ({len(rows)} in shard {k}, not {wanted})"
            )
        return rows


def whole_feature(store: CellStore, layout: CellLayout, name: str) -> NDArray[Any] | None:
    """A feature (images, ...) of a cell in the order of images; None where a shard lacks it.

    Errors: UserError for a missing or broken shard, and for another number of images.
    """
    if any(name not in store.feature_names(k) for k in range(layout.shards)):
        return None
    return np.concatenate(list(StoredFeature(store, layout, name).parts()))
