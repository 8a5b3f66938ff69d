"""The one loop that makes images: cells of one model, shard by shard, resumable and paired.

Runs, reference sets, studies and checks of the zoo all plan cells
(`sunbench.bench.cells.plan_cell`) and let a `Runner` make them in a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from sunbench.bench.batches import BatchSize
from sunbench.bench.cells import PlannedCell
from sunbench.bench.clock import Clock
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.handles import LATENTS, CellHandle
from sunbench.bench.turns import Turns
from sunbench.bench.writer import PENDING_SHARDS, Encoded, ShardWriter
from sunbench.errors import CannotSample, UserError
from sunbench.metrics.unmasked_psnr import unmasked_psnr
from sunbench.paths import cache_root, cell_folder
from sunbench.sampling import Generated, Sampler, TaskInputs, TextCache, generate
from sunbench.store import CellStore, ShardRow, mispaired
from sunbench.store.shared import SharedShards

if TYPE_CHECKING:
    from sunbench.models import LoadedModel

Features = dict[str, np.ndarray]


def _ignore(nfe: int, stored: bool) -> None:
    pass


class Runner:
    """Makes the missing shards of one model's cells.

    folder: candidates go to ``cells/`` in it; references, floors and sources to the cache.
    batch: images at once, halved whenever memory runs out; "auto" starts high.
    extractors: the networks whose features are stored with each shard.
    sources: image indices -> source images (B, 3, H, W) uint8, for tasks that start from some;
    mask: (H, W), 1 where inpainting paints. advance: told of U-Net evaluations done.
    shared: the shards of all runs; by default those of the cache.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        folder: Path,
        *,
        batch: int | Literal["auto"] = "auto",
        keep_images: bool = True,
        extractors: FeatureExtractors | None = None,
        clock: Clock | None = None,
        advance: Callable[[int, bool], None] = _ignore,
        sources: Callable[[range], Tensor] | None = None,
        mask: Tensor | None = None,
        shared: SharedShards | None = None,
    ) -> None:
        self.loaded, self.folder, self.keep_images = loaded, folder, keep_images
        self.extractors = FeatureExtractors(()) if extractors is None else extractors
        self.clock, self.advance = Clock() if clock is None else clock, advance
        self.sources, self.mask = sources, mask
        self.batch = BatchSize(batch, str(loaded.pipeline.unet.device))
        self.new_shards = 0
        self.shared = SharedShards(cache_root()) if shared is None else shared
        self._handles: dict[tuple[str, str], CellHandle] = {}

    @cached_property
    def texts(self) -> TextCache:
        """Embeddings of prompts, in the folder while the runner works."""
        return TextCache(self.loaded.pipeline, self.folder / "texts")

    def run(self, cells: Sequence[PlannedCell]) -> list[CellHandle]:
        """Make cells that stand alone, then remove what only sampling needed."""
        handles = [self.make(planned) for planned in cells]
        self.close()
        return handles

    def make(self, planned: PlannedCell, reference: CellHandle | None = None) -> CellHandle:
        """Make what a cell lacks, paired with its reference where there is one.

        Raises CannotSample for a method that fails on this model, before anything is stored, and
        UserError for a reference of other prompts or noise.
        """
        handle = self.handle(planned)
        turns = Turns(self.shared, handle, self.keep_images, wait=True)
        whole = [k for k in range(planned.cell.shards) if turns.available(k)]
        self._advance(handle, whole, stored=True)
        self._make(handle, reference, turns)
        others = set(range(planned.cell.shards)) - set(whole) - set(turns.taken)
        self._advance(handle, sorted(others), stored=False)
        return handle

    def help(
        self,
        planned: PlannedCell,
        reference: CellHandle | None = None,
        *,
        before_reference: bool = False,
    ) -> int:
        """Make what nobody else is making of a cell; how many of its shards are not whole yet.

        Where there is a reference, a shard's turn comes after the reference's. before_reference:
        sample it earlier where its images are kept, to be paired in a later call. Errors as `make`.
        """
        turns = Turns(self.shared, self.handle(planned), self.keep_images, wait=False)
        if reference is not None:
            turns.ready = reference.store.has_shard
        turns.early = before_reference and turns.images
        self._make(turns.handle, reference, turns)
        return len(turns.left)

    def handle(self, planned: PlannedCell) -> CellHandle:
        """A cell with where it is kept."""
        if planned.place not in self._handles:
            folder = cell_folder(self.folder, planned.role, planned.key)
            store = CellStore(folder, planned.cell.content())
            self._handles[planned.place] = CellHandle(planned, store)
        return self._handles[planned.place]

    def _make(self, handle: CellHandle, reference: CellHandle | None, turns: Turns) -> None:
        missing = [k for k in range(handle.cell.shards) if not turns.available(k)]
        if missing:
            self._sample(handle, reference, missing, turns)
        lacking = partial(self._lacking, handle, reference)
        left = list(turns.left)
        whole = [k for k in range(handle.cell.shards) if k not in left and lacking(k)]
        with turns:
            for k in turns.of(whole, lambda k: not lacking(k)):
                self._complete(handle, reference, k)
                turns.release(k)
        turns.left += left

    def _advance(self, handle: CellHandle, shards: Sequence[int], *, stored: bool) -> None:
        images = sum(len(handle.cell.shard(k)) for k in shards)
        self.advance(images * handle.planned.evaluations, stored)

    def close(self) -> None:
        """Remove the embeddings of prompts."""
        if "texts" in self.__dict__:
            self.texts.clear()

    # ------------------------------------------------------------------------- new shards

    def _sample(
        self, handle: CellHandle, reference: CellHandle | None, shards: list[int], turns: Turns
    ) -> None:
        mine = turns.of(shards, turns.available, early=turns.early)
        with turns:
            if (first := next(mine, None)) is None:
                return
            with self._prepared(handle.planned) as sampler, turns.writer() as writer:
                for k in chain([first], mine):
                    if reference is not None and reference.store.has_shard(k):
                        reference.decoded.prefetch(k)
                    writer.submit(k, *self._shard(handle, reference, sampler, writer, k))
                    turns.taken.append(k)
                    self.new_shards += 1
                    with self.clock.phase("waiting for the disk"):
                        writer.wait(PENDING_SHARDS - 1)
                with self.clock.phase("waiting for the disk"):
                    writer.wait()

    @contextmanager
    def _prepared(self, planned: PlannedCell) -> Iterator[Sampler]:
        """The sampler of a cell; the pipeline is as before when the block ends."""
        pipeline = self.loaded.pipeline
        try:
            sampler = planned.method.prepare(pipeline, planned.settings)
        except UserError as error:
            raise CannotSample(str(error)) from error
        try:
            yield sampler
        finally:
            planned.method.release(pipeline)

    def _shard(
        self,
        handle: CellHandle,
        reference: CellHandle | None,
        sampler: Sampler,
        writer: ShardWriter,
        k: int,
    ) -> tuple[list[ShardRow], Encoded, Features]:
        cell, texts = handle.cell, self._texts(handle.planned, k)
        keep = self.keep_images or handle.planned.role in ("reference", "source")
        rows, encoded = list[ShardRow](), Encoded()
        images, latents = list[Tensor](), list[Tensor]()
        costs, unmasked = list[list[float]](), list[float]()
        rest = cell.shard(k)
        while rest:
            part = partial(self._part, handle.planned, sampler, texts, rest)
            indices, inputs, g = self.batch.attempt(part)
            unmasked += self._unmasked(g.images, inputs)
            costs += self._costs(g, len(indices))
            images.append(g.images)
            latents.append(g.latents)
            rows += _rows(handle.planned, indices, g)
            encoded += writer.encode(g.images) if keep else []
            self.advance(len(indices) * handle.planned.evaluations, False)
            rest = rest[len(indices) :]
        pairable = {"images": torch.cat(images), "latents": torch.cat(latents)}
        features = {"cost": np.array(costs), LATENTS: pairable["latents"].numpy()}
        features |= self._embedded(pairable["images"])
        if unmasked:
            features["unmasked_psnr"] = np.array(unmasked)
        if reference is not None and reference.store.has_shard(k):
            features |= self._paired(handle, rows, pairable, reference, k)
        return rows, encoded, features

    def _part(
        self,
        planned: PlannedCell,
        sampler: Sampler,
        texts: dict[str, Tensor],
        rest: range,
        size: int,
    ) -> tuple[range, TaskInputs | None, Generated]:
        """The next images of a shard, so many at once."""
        indices, prompts = rest[:size], planned.prompts.rows
        inputs = self._inputs(indices)
        g = generate(planned.cell, self.loaded.pipeline, sampler, prompts, indices, texts, inputs)
        return indices, inputs, g

    def _inputs(self, indices: range) -> TaskInputs | None:
        if self.sources is None:
            return None
        with self.clock.phase("source images"):
            return TaskInputs(self.sources(indices), self.mask)

    def _unmasked(self, images: Tensor, inputs: TaskInputs | None) -> list[float]:
        """How well each image kept what its mask leaves alone; nothing without a mask."""
        if inputs is None or inputs.mask is None:
            return []
        with self.clock.phase("paired metrics"):
            return unmasked_psnr(images, inputs.images, inputs.mask).tolist()

    def _texts(self, planned: PlannedCell, k: int) -> dict[str, Tensor]:
        prompts, seeds = planned.prompts.rows, len(planned.cell.seeds)
        own = [prompts[i // seeds] for i in planned.cell.shard(k)]
        with self.clock.phase("text encoder"):
            negatives = self.texts.block([p.negative for p in own])
            return negatives | self.texts.block([p.text for p in own])

    def _costs(self, g: Generated, n: int) -> list[list[float]]:
        """NFE of each image; the clock's coarse seconds are for run.json alone."""
        self.clock.seconds["sampler"] += g.sample_seconds
        self.clock.seconds["VAE decoder"] += g.decode_seconds
        return [[g.nfe]] * n

    # ------------------------------------------------------------------------- features

    def _lacking(self, handle: CellHandle, reference: CellHandle | None, k: int) -> list[str]:
        """Features that a stored shard lacks."""
        wanted = set(self.extractors.embedded())
        if reference is not None:
            wanted |= set(self.extractors.paired_names(reference.settings_key).values())
        return sorted(wanted - set(handle.store.feature_names(k))) if wanted else []

    def _complete(self, handle: CellHandle, reference: CellHandle | None, k: int) -> None:
        """Add the features that a stored shard lacks."""
        rows, images = handle.decoded(k)
        features = self._embedded(images)
        if reference is not None:
            pairable = {"images": images, "latents": handle.latents(k)}
            features |= self._paired(handle, rows, pairable, reference, k)
        for name in self._lacking(handle, reference, k):
            handle.store.add_features(k, name, features[name])

    def _embedded(self, images: Tensor) -> Features:
        with self.clock.phase("feature networks"):
            return self.batch.attempt(partial(self.extractors.embed, images))

    def _paired(
        self,
        handle: CellHandle,
        rows: list[ShardRow],
        pairable: dict[str, Tensor],
        reference: CellHandle,
        k: int,
    ) -> Features:
        """Scores of images and latents against the reference's; a floor has other noise."""
        with self.clock.phase("reading the reference"):
            theirs, images = reference.decoded(k)
            other = {"images": images, "latents": reference.latents(k)}
        problem = mispaired(rows, theirs, noise=handle.planned.role != "floor")
        if problem is not None:
            raise UserError(f"{handle.cell.label}, {problem}")
        pairs = {name: (x, other[name].to(x.device)) for name, x in pairable.items()}
        with self.clock.phase("paired metrics"):
            return self.batch.attempt(
                partial(self.extractors.paired, pairs, reference.settings_key)
            )


def _rows(planned: PlannedCell, indices: range, g: Generated) -> list[ShardRow]:
    black = (g.images.flatten(1).amax(1) == 0).tolist()
    seeds, out = planned.cell.seeds, []
    for i, noise, dark in zip(indices, g.noise_hashes, black, strict=True):
        p, seed = planned.prompts.rows[i // len(seeds)], seeds[i % len(seeds)]
        out.append(ShardRow(i, p.id, seed, p.text, p.negative, noise, black=dark))
    return out
