"""Batches made in other processes while the device works on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


class _Numbered(Dataset[T]):
    """``make`` as a data set that has no end."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make

    def __getitem__(self, k: int) -> T:
        return self.make(k)


class Prefetcher(Generic[T]):
    """Calls ``make`` with the number of a batch; beside a CUDA device the next ones are made ahead.

    make: a function of the number alone, so what is made ahead is what would have been made. Beside
    a CPU nothing is made ahead: training and batches would share the cores.
    """

    def __init__(
        self, make: Callable[[int], T], device: str | torch.device, processes: int = 2
    ) -> None:
        self.make, self.processes = make, processes
        self._ahead = torch.device(device).type == "cuda"
        self._stream: Iterator[T] | None = None
        self._last: tuple[int, T] | None = None

    def __call__(self, k: int) -> T:
        """Batch k."""
        if not self._ahead:
            return self.make(k)
        if self._last is not None and self._last[0] == k:
            return self._last[1]
        if self._stream is None or self._last is None or self._last[0] != k - 1:
            self._stream = self._from(k)
        batch = next(self._stream)
        self._last = (k, batch)
        return batch

    def _from(self, k: int) -> Iterator[T]:
        return iter(
            DataLoader(
                _Numbered(self.make),
                batch_size=None,
                sampler=count(k),
                num_workers=self.processes,
                prefetch_factor=4,
                multiprocessing_context="fork",
                generator=torch.Generator(),  # its seeds are nobody's: the global one stays
                pin_memory=torch.cuda.is_available(),
            )
        )
