"""How many images at once: the batch size that memory allows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeVar

import torch

log = logging.getLogger(__name__)

#: Where "auto" starts; running out of memory halves it.
AUTO = {"cuda": 128}
AUTO_ELSEWHERE = 64

T = TypeVar("T")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out, of the device or of the machine."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


class BatchSize:
    """A batch size that halves whenever memory runs out, down to one image."""

    def __init__(self, asked: int | Literal["auto"], device: str) -> None:
        automatic = AUTO.get(torch.device(device).type, AUTO_ELSEWHERE)
        self.size = automatic if asked == "auto" else asked

    def attempt(self, work: Callable[[int], T]) -> T:
        """``work`` of the current size; again at half of it while memory runs out."""
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                if self.size == 1 or not out_of_memory(error):
                    raise
            self.size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning("out of memory: going on with batches of %d", self.size)
