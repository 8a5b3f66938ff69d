"""Making cells: sampling, decoding, features and paired scores in one pass, files in a thread."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.plan import Planned
from sunbench.errors import UserError
from sunbench.metrics.unmasked_psnr import unmasked_psnr
from sunbench.sampling import Cell, Given, Sampler, TextCache, generate
from sunbench.store import CellStore, ShardRow

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet

log = logging.getLogger(__name__)

#: Columns of the feature "cost" of each shard, per image.
COST = ("nfe", "unet_seconds", "sample_seconds", "decode_seconds")


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began


@dataclass(frozen=True)
class Made:
    """A planned cell and where it is kept."""

    planned: Planned
    store: CellStore

    @property
    def cell(self) -> Cell:
        """What it is."""
        return self.planned.cell


class Executor:
    """Makes the missing shards of one model's cells."""

    def __init__(
        self,
        loaded: LoadedModel,
        rows: PromptSet,
        extractors: FeatureExtractors,
        texts: Path,
        *,
        batch: int,
        keep_images: bool,
        clock: Clock,
        advance: Callable[[int], None] = lambda nfe: None,
        sources: Callable[[range], Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.loaded, self.rows, self.extractors = loaded, rows, extractors
        self.batch, self.keep_images = batch, keep_images
        self.clock, self.advance = clock, advance
        self.sources, self.mask = sources, mask
        self.texts = TextCache(loaded.pipeline, texts)

    def make(self, made: Made, reference: Made | None) -> int:
        """Make what a cell lacks, paired with its reference; returns the number of new shards."""
        cell, store = made.cell, made.store
        missing = [k for k in range(cell.shards) if not store.has_shard(k)]
        whole = [k for k in range(cell.shards) if k not in missing]
        self.advance(sum(len(cell.shard(k)) for k in whole) * self._nfe(made))
        if missing:
            self._make_shards(made, reference, missing)
        for k in whole:
            self._complete(made, reference, k)
        return len(missing)

    def _nfe(self, made: Made) -> int:
        return made.planned.planned_nfe // made.cell.images

    # ------------------------------------------------------------------------- new shards

    def _make_shards(self, made: Made, reference: Made | None, missing: list[int]) -> None:
        method = made.planned.method
        pipeline = self.loaded.pipeline
        sampler = method.prepare(pipeline, made.planned.settings)
        pending: Future[None] | None = None
        with ThreadPoolExecutor(1, "shard-writer") as writer:
            try:
                for k in missing:
                    rows, features = self._shard(made, reference, sampler, k)
                    self._wait(pending)
                    pending = writer.submit(made.store.write_shard, k, rows, features)
                self._wait(pending)
            finally:
                method.release(pipeline)

    def _wait(self, pending: Future[None] | None) -> None:
        if pending is not None:
            with self.clock.phase("waiting for the disk"):
                pending.result()

    def _shard(
        self, made: Made, reference: Made | None, sampler: Sampler, k: int
    ) -> tuple[list[ShardRow], dict[str, np.ndarray]]:
        cell = made.cell
        texts = self._texts(cell, k)
        rows: list[ShardRow] = []
        pictures: list[Tensor] = []
        costs: list[list[float]] = []
        unmasked: list[float] = []
        shard = cell.shard(k)
        for start in range(shard.start, shard.stop, self.batch):
            indices = range(start, min(start + self.batch, shard.stop))
            pipeline = self.loaded.pipeline
            given = self._given(indices)
            g = generate(cell, pipeline, sampler, self.rows.rows, indices, texts, given)
            unmasked += self._unmasked(g.images, given)
            self.clock.seconds["U-Net"] += g.unet_seconds
            self.clock.seconds["solver and pipeline"] += g.sample_seconds - g.unet_seconds
            self.clock.seconds["VAE decoder"] += g.decode_seconds
            spent = (g.unet_seconds, g.sample_seconds, g.decode_seconds)
            costs += [[g.nfe, *(s / len(indices) for s in spent)]] * len(indices)
            pictures.append(g.images)
            rows += self._rows(made, indices, g.images, g.noise_hashes)
            self.advance(len(indices) * self._nfe(made))
        images = torch.cat(pictures)
        features = {"cost": np.array(costs)}
        if unmasked:
            features["unmasked_psnr"] = np.array(unmasked)
        with self.clock.phase("feature networks"):
            features |= self.extractors.embed(images, self.batch)
        if reference is not None:
            features |= self._paired(cell, rows, images, reference, k)
        return rows, features

    def _given(self, indices: range) -> Given | None:
        if self.sources is None:
            return None
        with self.clock.phase("source pictures"):
            return Given(self.sources(indices), self.mask)

    def _unmasked(self, images: Tensor, given: Given | None) -> list[float]:
        """How well each picture kept what its mask leaves alone; nothing without a mask."""
        if given is None or given.mask is None:
            return []
        with self.clock.phase("paired metrics"):
            return unmasked_psnr(images, given.pictures, given.mask).tolist()

    def _texts(self, cell: Cell, k: int) -> dict[str, Tensor]:
        mine = [self.rows.rows[i // len(cell.seeds)] for i in cell.shard(k)]
        with self.clock.phase("text encoder"):
            negatives = self.texts.block([p.negative for p in mine])
            return negatives | self.texts.block([p.text for p in mine])

    def _rows(
        self, made: Made, indices: range, images: Tensor, hashes: list[str]
    ) -> list[ShardRow]:
        keep = self.keep_images or made.planned.role in ("reference", "source")
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        black = (images.flatten(1).amax(1) == 0).tolist()
        seeds, out = made.cell.seeds, []
        for i, noise, pixel, dark in zip(indices, hashes, pixels, black, strict=True):
            p, seed = self.rows.rows[i // len(seeds)], seeds[i % len(seeds)]
            kept = pixel if keep else None
            out.append(ShardRow(i, p.id, seed, p.text, p.negative, noise, kept, dark))
        return out

    # ------------------------------------------------------------------------- features

    def _complete(self, made: Made, reference: Made | None, k: int) -> None:
        """Add the features that a stored shard lacks; without any, nothing is opened."""
        held = made.store.manifest(k)["features"]
        wanted = set(self.extractors.embedded())
        if reference is not None:
            wanted |= set(self.extractors.paired_names(reference.store.key).values())
        if not wanted - held.keys():
            return
        rows = made.store.read_rows(k, images=True)
        images = stacked(rows, made.store.folder)
        with self.clock.phase("feature networks"):
            features = self.extractors.embed(images, self.batch)
        if reference is not None:
            features |= self._paired(made.cell, rows, images, reference, k)
        for name in sorted(wanted - held.keys()):
            made.store.add_features(k, name, features[name])

    def _paired(
        self, cell: Cell, rows: list[ShardRow], images: Tensor, reference: Made, k: int
    ) -> dict[str, np.ndarray]:
        with self.clock.phase("reading the reference"):
            theirs = reference.store.read_rows(k, images=True)
            check_pairs(cell, rows, theirs)
            pictures = stacked(theirs, reference.store.folder).to(images.device)
        with self.clock.phase("paired metrics"):
            return self.extractors.paired(images, pictures, reference.store.key, self.batch)


def check_pairs(cell: Cell, mine: list[ShardRow], theirs: list[ShardRow]) -> None:
    """Reference and candidate must show the same prompts from the same noise, in the same order."""
    for a, b in zip(mine, theirs, strict=True):
        if (a.index, a.prompt_id, a.noise_hash) != (b.index, b.prompt_id, b.noise_hash):
            raise UserError(
                f"{cell.label}, image {a.index}: prompt {a.prompt_id} from noise {a.noise_hash},"
                f" expected its reference's prompt {b.prompt_id} from noise {b.noise_hash}"
            )


def stacked(rows: list[ShardRow], where: Path) -> Tensor:
    """Stored pictures: uint8 (B, 3, H, W)."""
    images = [r.image for r in rows if r.image is not None]
    if len(images) != len(rows):
        raise UserError(f"{where}: its pictures were not kept, so no metric can be added")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
