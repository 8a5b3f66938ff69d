"""Several processes on one training: micro-batches are dealt to them, gradients are summed.

``accelerate launch --num_processes N -m sunbench train …``, or torchrun. The loss of a micro-batch
depends on its number alone, so N processes go the way of one with the same ``accumulate``, up to
the order in which floats are summed. All processes read one folder; the first alone writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from sunbench.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """This process (rank) among all (count)."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and logs."""
        return self.rank == 0

    def share(self, accumulate: int) -> range:
        """The micro-batches of an update that are this process's.

        Raises UserError where they cannot be dealt evenly.
        """
        if accumulate % self.count:
            raise UserError(
                f"given accumulate = {accumulate} micro-batches an update, expected a multiple of"
                f" the {self.count} processes, such as accumulate = {self.count} under [loop]"
            )
        return range(self.rank, accumulate, self.count)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange."""
        if self.count == 1:
            return
        total = reduce(torch.cat([t.reshape(-1) for t in tensors]), "sum")
        for tensor, part in zip(tensors, total.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


def join(device: str) -> str:
    """Join the processes that a launcher started, if one did; this process's own device."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not re.fullmatch("[1-9][0-9]{0,5}", count):
        raise UserError(f"given WORLD_SIZE={count!r:.40}, expected a number: a launcher sets it")
    if int(count) == 1:
        return device
    state = PartialState(cpu=device == "cpu")
    return str(state.device) if device == "cuda" else device


def workers() -> ProcessGroup:
    """Those that were joined; alone otherwise."""
    if not PartialState._shared_state:
        return ProcessGroup()
    state = PartialState()
    return ProcessGroup(state.process_index, state.num_processes)
