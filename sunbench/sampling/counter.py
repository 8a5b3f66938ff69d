"""Counting U-Net evaluations by watching the network itself."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class UNetCounter:
    """Context in which every forward of ``unet`` is counted.

    ``rows`` sums batch sizes, so classifier-free guidance counts two per image, batched or not.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet, self.rows, self.calls = unet, 0, 0
        self._handles: list[RemovableHandle] = []

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.rows += len(sample)
        self.calls += 1

    def __enter__(self) -> UNetCounter:
        self._handles = [self.unet.register_forward_pre_hook(self._count, with_kwargs=True)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
