"""Counting U-Net evaluations and their time by watching the network itself."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from torch import nn


class UNetCounter:
    """Context in which every forward of ``unet`` is counted.

    ``rows`` sums batch sizes, so classifier-free guidance counts two an image, batched or not.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet, self.rows, self.calls, self.seconds = unet, 0, 0, 0.0
        self._began = 0.0
        self._handles: list[Any] = []

    def _now(self) -> float:
        if next(self.unet.parameters()).device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.rows += len(sample)
        self.calls += 1
        self._began = self._now()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.seconds += self._now() - self._began

    def __enter__(self) -> UNetCounter:
        self._handles = [
            self.unet.register_forward_pre_hook(self._before, with_kwargs=True),
            self.unet.register_forward_hook(self._after),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
