"""A planned cell together with its stored shards, and the images of shards decoded once."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sunbench.bench.cells import PlannedCell
from sunbench.errors import UserError
from sunbench.sampling import Cell
from sunbench.store import CellStore, Role, ShardRow
from sunbench.store.shared import settings_key

#: Decoded images that a cell keeps in memory, at least two shards.
DECODED_BYTES = 512 << 20

#: Per-image latents of every shard, before the autoencoder.
LATENTS = "latents"

Shard = tuple[list[ShardRow], Tensor]


@dataclass(frozen=True)
class CellHandle:
    """A planned cell and where it is kept."""

    planned: PlannedCell
    store: CellStore

    @property
    def role(self) -> Role:
        """Its part in the run."""
        return self.planned.role

    @property
    def cell(self) -> Cell:
        """What it is."""
        return self.planned.cell

    @cached_property
    def settings_key(self) -> str:
        """Key of what its shards share: the cell without prompts and seeds."""
        return settings_key(self.store.content)

    @cached_property
    def decoded(self) -> DecodedShards:
        """Its images, decoded in a thread and kept for whoever asks next."""
        shard_bytes = 3 * self.cell.resolution**2 * len(self.cell.shard(0))
        return DecodedShards(self.store, max(2, DECODED_BYTES // shard_bytes))

    def latents(self, k: int) -> Tensor:
        """Final latents of shard k: float16 (B, C, h, w)."""
        latents = self.store.read_features(k, LATENTS)
        if latents is None:
            raise UserError(
                f"{self.store.folder}: shard {k} has no latents; remove the folder, run again"
            )
        return torch.from_numpy(latents)

    def images(self, k: int) -> Tensor:
        """Images of shard k: uint8 (B, 3, H, W)."""
        return self.decoded(k)[1]


class DecodedShards:
    """The last shards of a cell with their images: a candidate's are sampled meanwhile."""

    def __init__(self, store: CellStore, limit: int) -> None:
        self.store, self.limit = store, limit
        self._pool = ThreadPoolExecutor(1, "image-decoder")
        self._shards: OrderedDict[int, Future[Shard]] = OrderedDict()

    def prefetch(self, k: int) -> Future[Shard]:
        """Begin to decode a shard unless it is there."""
        if k not in self._shards:
            self._shards[k] = self._pool.submit(read_shard, self.store, k)
            while len(self._shards) > self.limit:
                self._shards.popitem(last=False)
        self._shards.move_to_end(k)
        return self._shards[k]

    def __call__(self, k: int) -> Shard:
        """Rows and images (B, 3, H, W) uint8 of a shard."""
        return self.prefetch(k).result()


def read_shard(store: CellStore, k: int) -> Shard:
    """Rows and decoded images of a stored shard."""
    rows = store.read_rows(k, images=True)
    return rows, stacked(rows, store.folder)


def stacked(rows: list[ShardRow], where: Path) -> Tensor:
    """Stored images: uint8 (B, 3, H, W)."""
    images = [r.image for r in rows if r.image is not None]
    if len(images) != len(rows):
        raise UserError(f"{where}: its images were not kept, so no metric can be added")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
