"""Seconds on a device: CUDA events on CUDA, the processor's clock elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class Mark(Protocol):
    """A point in a device's time."""

    def until(self, later: Any) -> float:
        """Seconds from this mark to a later one; both have been reached."""
        ...


class ProcessorMark:
    """A point in the time of the processor."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def until(self, later: ProcessorMark) -> float:
        """Seconds from this mark to a later one."""
        return later.at - self.at


class CudaMark:
    """A point in the current CUDA stream, which does not stop the processor."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def until(self, later: CudaMark) -> float:
        """Seconds from this mark to a later one; the device has been synchronized."""
        return float(self.event.elapsed_time(later.event)) / 1000


class Stopwatch:
    """Marks of one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def mark(self) -> Mark:
        """The present point; on CUDA without waiting for it."""
        if self.device.type == "cuda":
            return CudaMark()
        self.synchronize()
        return ProcessorMark()


class ModuleTimer:
    """Context in which each forward of a module is timed; read ``seconds`` after synchronizing."""

    def __init__(self, module: nn.Module, stopwatch: Stopwatch) -> None:
        self.module, self.stopwatch = module, stopwatch
        self._spans: list[tuple[Mark, Mark]] = []
        self._began: list[Mark] = []
        self._handles: list[RemovableHandle] = []

    @property
    def seconds(self) -> float:
        """Seconds inside the module."""
        return sum(start.until(end) for start, end in self._spans)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._began.append(self.stopwatch.mark())

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._spans.append((self._began.pop(), self.stopwatch.mark()))

    def __enter__(self) -> ModuleTimer:
        self._handles = [
            self.module.register_forward_pre_hook(self._before),
            self.module.register_forward_hook(self._after),
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
