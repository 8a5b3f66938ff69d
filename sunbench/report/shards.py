"""Reading a few pictures and scores out of a big cell, without reading the rest of it.

The store's own readers check a whole shard (``sunbench verify`` does that for all). A report
touches a few pictures of many shards, so it trusts the manifest, checks the small files of scores,
and lets each PNG's own checksum speak for its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from sunbench.errors import UserError
from sunbench.store import CellRecord, ShardRow, decode_picture
from sunbench.store.layout import Layout
from sunbench.store.manifest import stem, unseal

_COLUMNS = ["index", "prompt_id", "seed", "prompt", "negative", "noise_hash", "image", "black"]
_BROKEN = (OSError, KeyError, TypeError, UserError, SafetensorError, pa.ArrowException)


@dataclass(frozen=True)
class CellFiles:
    """One cell of a finished run: where its shards are and how many images they hold."""

    method: str
    steps: int
    role: str
    key: str
    folder: Path
    images: int
    layout: Layout

    @property
    def name(self) -> str:
        """In words: "ddim at 4 steps"."""
        method = "reference" if self.role == "reference" else self.method
        return f"{method} at {self.steps} steps"

    @classmethod
    def of(cls, cell: CellRecord, folder: Path) -> CellFiles:
        """The files of a cell that run.json lists."""
        about = cell.about
        return cls(
            method=about.method,
            steps=about.steps,
            role=cell.role,
            key=cell.key,
            folder=folder,
            images=about.images,
            layout=about.layout,
        )

    @property
    def seeds(self) -> int:
        """Images per prompt."""
        return self.layout.seeds

    def manifest(self, k: int) -> dict[str, Any] | None:
        """Shard k's list of files, or None when it is missing or broken."""
        file = self.folder / f"{stem(k)}.json"
        try:
            return unseal(file.read_bytes(), str(file), self.key, k)
        except (OSError, UserError):
            return None

    # -------------------------------------------------------------------------- scores

    def scores(self, prefix: str) -> NDArray[np.float64]:
        """The score of every image, from the feature whose name begins so; NaN where missing."""
        out = np.full(self.images, np.nan)
        for k in range(self.layout.shards):
            part = self._scores(k, prefix)
            if part is not None:
                out[self.layout.shard(k)[: len(part)]] = part
        return out

    def _scores(self, k: int, prefix: str) -> NDArray[Any] | None:
        manifest = self.manifest(k)
        features = {} if manifest is None else manifest["features"]
        entry = next((e for n, e in features.items() if n.startswith(prefix)), None)
        if entry is None:
            return None
        try:
            data = (self.folder / entry["file"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                return None
            found = load(data)["features"]
        except _BROKEN:
            return None
        return found if found.ndim == 1 else None

    # -------------------------------------------------------------------------- pictures

    def rows(self, indices: Iterable[int]) -> Iterator[ShardRow]:
        """Rows of these images, with pixels where kept; missing or broken ones are left out."""
        wanted: dict[int, list[int]] = {}
        for i in sorted(set(indices)):
            wanted.setdefault(self.layout.place(i)[0], []).append(i)
        for k, some in wanted.items():
            yield from self._shard_rows(k, some)

    def _shard_rows(self, k: int, indices: list[int]) -> Iterator[ShardRow]:
        manifest = self.manifest(k)
        if manifest is None:
            return
        try:
            yield from _parquet_rows(self.folder / manifest["images"]["file"], indices)
        except _BROKEN:
            return


def _parquet_rows(path: Path, indices: list[int]) -> Iterator[ShardRow]:
    """Rows by image number; of the file only the row groups that hold them are read."""
    with path.open("rb") as data, pq.ParquetFile(data) as file:
        for g in range(file.num_row_groups):
            numbers = file.read_row_group(g, ["index"]).column("index").to_pylist()
            places = [j for j, i in enumerate(numbers) if i in indices]
            if places:
                table = file.read_row_group(g, _COLUMNS).take(places)
                yield from (_row(record, path) for record in table.to_pylist())


def _row(record: dict[str, Any], path: Path) -> ShardRow:
    picture = record.pop("image")
    name = f"{path.name}, image {record['index']}"
    image = None if picture is None else decode_picture(picture["bytes"], name)
    return ShardRow(image=image, **record)
