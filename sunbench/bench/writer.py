"""Shards on their way to disk: images encoded and files written in threads, a few at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import numpy as np
from torch import Tensor

from sunbench.store import CellStore, ShardRow, encode_png

#: Shards that may wait for the disk before sampling waits for them.
PENDING_SHARDS = 2

Encoded = list[Future[bytes]]


def _png(image: Tensor) -> bytes:
    return encode_png(image.permute(1, 2, 0).contiguous().numpy())


class ShardWriter:
    """A context in which shards are encoded and written beside the sampling of the next.

    names: keys of shards by their own content. may_write: asked before a shard is written.
    written: told after it.
    """

    def __init__(
        self,
        store: CellStore,
        names: Mapping[int, str] | None = None,
        may_write: Callable[[int], bool] = lambda k: True,
        written: Callable[[int], None] = lambda k: None,
    ) -> None:
        self.store, self.names = store, {} if names is None else names
        self.may_write, self.written = may_write, written
        self._encoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "png-encoder")
        self._writer = ThreadPoolExecutor(1, "shard-writer")
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def encode(self, images: Tensor) -> Encoded:
        """Begin to encode images (B, 3, H, W) uint8 as PNG."""
        return [self._encoders.submit(_png, image) for image in images.cpu()]

    def submit(
        self, k: int, rows: list[ShardRow], encoded: Encoded, features: Mapping[str, np.ndarray]
    ) -> None:
        """Write a shard when its images are encoded; none of them where none are kept."""
        self._pending.append(self._writer.submit(self._write, k, rows, encoded, features))

    def _write(
        self, k: int, rows: list[ShardRow], encoded: Encoded, features: Mapping[str, np.ndarray]
    ) -> None:
        if self._failed:
            return  # what failed is raised by ``wait``
        try:
            self._encoded(k, rows, encoded, features)
        except BaseException:
            self._failed = True
            raise

    def _encoded(
        self, k: int, rows: list[ShardRow], encoded: Encoded, features: Mapping[str, np.ndarray]
    ) -> None:
        if encoded:
            rows = [replace(r, png=e.result()) for r, e in zip(rows, encoded, strict=True)]
        if not self.store.has_shard(k) and self.may_write(k):  # others may have been faster
            self.store.write_shard(k, rows, features, self.names.get(k))
        self.written(k)

    def wait(self, pending: int = 0) -> None:
        """Until no more shards than so many wait; raises what went wrong with them."""
        while len(self._pending) > pending:
            self._pending.popleft().result()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._writer.shutdown()  # after it has written what waits, whatever went wrong here
            self._encoders.shutdown(cancel_futures=True)
