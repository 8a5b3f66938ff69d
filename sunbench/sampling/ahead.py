"""What the steps of a batch need from the processor, prepared so that a device need not wait.

diffusers' schedulers read their timestep, which lies on the device, at every step, and a stochastic
one draws each image's noise on the processor and copies it step by step. Within `ahead` a scheduler
reads timesteps that were copied once for a batch, and noise that was drawn for all steps at once.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class HostTimesteps:
    """The timesteps of a scheduler in the processor's memory, copied once for each schedule."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self._source: Tensor | None = None
        self._copy = torch.empty(0)

    def read(self) -> Tensor:
        """Every timestep of the present schedule: (steps,)."""
        if self._source is not self.scheduler.timesteps:
            self._source = self.scheduler.timesteps
            self._copy = self._source.cpu()
        return self._copy

    def index(self, timestep: Any) -> int | None:
        """Where in the schedule a timestep is, told by its place in memory; None if elsewhere."""
        table = self.scheduler.timesteps
        if not isinstance(timestep, Tensor) or timestep.ndim or timestep.device != table.device:
            return None
        if timestep.untyped_storage().data_ptr() != table.untyped_storage().data_ptr():
            return None
        return (timestep.storage_offset() - table.storage_offset()) // table.stride(0)

    def __call__(self, timestep: Any) -> Any:
        """The same timestep in the processor's memory; what is not of the schedule stays."""
        index = self.index(timestep)
        return timestep if index is None else self.read()[index]


class StepNoise(TorchFunctionMode):
    """Within it ``torch.randn`` of an image's generator gives noise that was drawn before.

    generators: one per image. The first draw prepares ``steps`` draws of every generator in its own
    order and copies them to the device at once, so that values are those of a draw per step.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        super().__init__()
        self.device, self.steps = device, 1
        self._drawn: dict[torch.Generator, deque[Tensor]] = {g: deque() for g in generators}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Noise (1, C, h, w) on the device for a draw of an image; all else as it is."""
        kwargs = kwargs or {}
        drawn = self._drawn.get(kwargs.get("generator")) if func is torch.randn else None  # type: ignore[arg-type]
        if drawn is None:
            return func(*args, **kwargs)
        if not drawn:
            self._draw(tuple(args[0]), kwargs["dtype"])
        return drawn.popleft()

    def _draw(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        noise = torch.stack([
            torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in self._drawn])
            for _ in range(self.steps)
        ])  # fmt: skip
        if self.device.type == "cuda":
            noise = noise.pin_memory()
        for step in noise.to(self.device, non_blocking=self.device.type == "cuda"):
            for drawn, image in zip(self._drawn.values(), step, strict=True):
                drawn.append(image)


@contextmanager
def ahead(
    scheduler: Any, generators: Sequence[torch.Generator], device: torch.device
) -> Iterator[None]:
    """A context in which the scheduler's steps neither read the device nor draw one by one."""
    step, set_timesteps = scheduler.step, scheduler.set_timesteps
    host, noise = HostTimesteps(scheduler), StepNoise(generators, device)

    @functools.wraps(set_timesteps)
    def scheduled(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        host.read()  # before the device has work to be waited for

    @functools.wraps(step)
    def prepared(model_output: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        index, on_device = host.index(timestep), scheduler.timesteps
        if index is None:
            return step(model_output, timestep, *args, **kwargs)
        table = host.read()
        noise.steps = max(1, len(table) - 1 - index)  # most draw none at the last step
        scheduler.timesteps = table
        try:
            with noise:
                return step(model_output, table[index], *args, **kwargs)
        finally:
            scheduler.timesteps = on_device

    scheduler.step, scheduler.set_timesteps = prepared, scheduled
    try:
        yield
    finally:
        del scheduler.step, scheduler.set_timesteps
