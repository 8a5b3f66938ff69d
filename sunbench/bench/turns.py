"""Whose turn it is to make a shard of a cell, among all processes that share the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from types import TracebackType

from sunbench.bench.handles import CellHandle
from sunbench.bench.writer import ShardWriter
from sunbench.store.shared import SharedShards, shard_key

#: Seconds between two looks at what others are making.
POLL = 0.2


class Turns:
    """The shards of one cell, each claimed before it is made and published after.

    images: whether a shard must hold its images. wait: for shards that others are making; without
    it they are named in ``left``. ready: whether what a shard depends on is there. early: whether
    one may be sampled before that, to be completed later. taken: those that this process sampled.
    """

    def __init__(
        self, shared: SharedShards, handle: CellHandle, images: bool, *, wait: bool
    ) -> None:
        self.shared, self.handle, self.wait = shared, handle, wait
        self.images = images or handle.role in ("reference", "source")
        self.ready: Callable[[int], bool] = lambda k: True
        self.early = False
        self.left: list[int] = []
        self.taken: list[int] = []

    @cached_property
    def names(self) -> dict[int, str]:
        """Keys of the cell's shards by their own content."""
        return {k: self._name(k, self.images) for k in range(self.handle.cell.shards)}

    def _name(self, k: int, images: bool) -> str:
        cell, rows = self.handle.cell, self.handle.planned.prompts.rows
        prompts = [(rows[p].id, rows[p].text, rows[p].negative) for p in cell.layout.block(k)]
        seed = cell.seeds[k % len(cell.seeds)]
        return shard_key(self.handle.store.content, prompts, seed, images)

    # -------------------------------------------------------------------------- one shard

    def available(self, k: int) -> bool:
        """Whether a shard is in the cell's folder, or could be taken over into it."""
        store, numbers = self.handle.store, self.handle.cell.shard(k)
        if store.has_shard(k):
            self._finish_for_the_dead(k)
            return True
        names = [self.names[k]] if self.images else [self.names[k], self._name(k, True)]
        return any(self.shared.adopt(name, store, k, numbers) for name in names)

    def _finish_for_the_dead(self, k: int) -> None:
        """Publish a whole shard whose maker was killed before it could, and free its claim."""
        claims, name = self.shared.claims, self.names[k]
        if claims.file(name).exists() and claims.take(name):
            self.publish(k)

    def holds(self, k: int) -> bool:
        """Whether the claim of a shard still stands."""
        return self.shared.claims.holds(self.names[k])

    def publish(self, k: int) -> None:
        """Let others have a shard that was written, and give its claim back."""
        if self.holds(k):
            self.shared.publish(self.names[k], self.handle.store, k)
        self.release(k)

    def release(self, k: int) -> None:
        """Give the claim of a shard back."""
        self.shared.claims.release(self.names[k])

    # -------------------------------------------------------------------------- all of them

    def writer(self) -> ShardWriter:
        """Writes shards whose claims stand, and publishes them."""
        return ShardWriter(self.handle.store, self.names, self.holds, self.publish)

    def of(
        self, shards: list[int], done: Callable[[int], bool], *, early: bool = False
    ) -> Iterator[int]:
        """Those shards that are this process's to make, claimed, until all are done.

        early: whether or not they are ready.
        """
        left = list(shards)
        while left:
            waiting = []
            for k in left:
                if done(k):
                    continue
                if (early or self.ready(k)) and self.shared.claims.take(self.names[k]):
                    if done(k):
                        self.release(k)
                    else:
                        yield k
                else:
                    waiting.append(k)
            left = waiting
            if not self.wait:
                break
            if left:
                time.sleep(POLL)
        self.left = left

    def __enter__(self) -> Turns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for k in range(self.handle.cell.shards):
            self.release(k)
