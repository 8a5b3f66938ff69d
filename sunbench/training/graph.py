"""An update as one CUDA graph: where layers are small, launching them costs more than they do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sunbench.training.loop import LoopSettings, Losses, TrainingLoop

#: Updates before the recording, for libraries to choose their kernels; they leave no trace.
WARM_UP = 3


class GraphedLoop(TrainingLoop):
    """The loop whose forward and backward pass, clipping, AdamW and average are one graph.

    loss: the tensors of a batch -> named losses. batches: number -> such tensors on the CPU, all of
    the same shapes. Losses are read, and seen to be finite, when they are logged or saved: until
    then the device is never waited for.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Losses],
        batches: Callable[[int], Sequence[Tensor]],
        settings: LoopSettings,
        folder: Path,
    ) -> None:
        super().__init__(module, loss, settings, folder)
        self._batches = batches
        live, device = module.state_dict(), self.trained[0].device
        smooth = [k for k, v in live.items() if v.is_floating_point()]
        self._live, self._smooth = [live[k] for k in smooth], [self.ema[k] for k in smooth]
        self._decay = torch.zeros((), device=device)
        self._largest_norm = torch.zeros((), device=device)
        self._inputs = [t.to(device) for t in batches(self.start)]
        self._record()

    def _optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        rate = torch.zeros((), device=self.trained[0].device)
        return torch.optim.AdamW(
            self.trained, rate, s.betas, weight_decay=s.weight_decay, fused=True, capturable=True
        )

    def _record(self) -> None:
        state = self.optimizer.state
        before = {p: {k: v.clone() for k, v in values.items()} for p, values in state.items()}
        average = [t.clone() for t in self._smooth]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):  # at rate 0: only the optimizer's state moves
                self._update()
        torch.cuda.current_stream().wait_stream(aside)
        for p, values in state.items():
            for k, v in values.items():
                v.copy_(before[p][k]) if p in before else v.zero_()
        torch._foreach_copy_(self._smooth, average)
        self._graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            self._update()
        for total in (self._total, self._largest_norm):
            total.zero_()

    def _update(self) -> None:
        s = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        loss: Callable[..., Losses] = self.loss
        dtype, mixed = getattr(torch, s.dtype), s.dtype != "float32"
        with torch.autocast("cuda", dtype, mixed, cache_enabled=False):
            parts = loss(*self._inputs)
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.trained, s.clip)
        self.optimizer.step()
        values = torch.stack([v.detach().float() for v in parts.values()])
        if not hasattr(self, "_total"):
            self._names, self._total = list(parts), torch.zeros_like(values)
        self._total += values
        torch.maximum(self._largest_norm, norm, out=self._largest_norm)
        with torch.no_grad():
            torch._foreach_mul_(self._smooth, self._decay)
            torch._foreach_add_(self._smooth, torch._foreach_mul(self._live, 1 - self._decay))

    def step(self, step: int) -> None:
        """One update: the batch goes into the graph's own tensors."""
        began = time.monotonic()
        for place, value in zip(self._inputs, self._batches(step), strict=True):
            place.copy_(value, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.settings.rate(step))
        self._decay.fill_(self.decay(step + 1))
        self._graph.replay()
        self.seconds += time.monotonic() - began

    def settle(self, done: int) -> None:
        """Read the sums of the losses; UserError unless all since the last time were finite."""
        total = self._total.tolist()
        if not (math.isfinite(total[0]) and math.isfinite(float(self._largest_norm))):
            raise self.not_finite(done)
        for name, value in zip(self._names, total, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self._total.zero_()
        self._largest_norm.zero_()
