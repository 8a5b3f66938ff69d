"""The training loop: AdamW, warm-up/stable/decay schedule, EMA, checkpoints that resume to the bit.

The loss is a function of the step number alone (it draws its batch and noise from generators seeded
by that number), so a run that was killed and resumed equals one that was not.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sunbench.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train; every field can stand in a recipe file."""

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay: float = 0.3  # share of the steps, at the end, over which the rate falls to zero
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0  # largest gradient norm
    accumulate: int = 1  # micro-batches a step
    ema: float = 0.999
    seed: int = 0
    dtype: str = "bfloat16"  # of autocast; float32 switches it off
    checkpoint_every: int = 500
    log_every: int = 50

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> LoopSettings:
        """From a TOML table; an unknown key is an error."""
        known = {f.name for f in fields(cls)}
        for key in table:
            if key not in known:
                raise UserError(f"unknown training setting {key!r}; known: {', '.join(known)}")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in table.items()
        }
        return cls(**values)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, plateau, then 1 - sqrt decay to zero."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        start = self.steps * (1 - self.decay)
        if step <= start:
            return self.learning_rate
        return self.learning_rate * (1 - math.sqrt((step - start) / (self.steps - start)))


def _pack(
    module: nn.Module, ema: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    out = {f"model/{k}": v for k, v in module.state_dict().items()}
    out |= {f"ema/{k}": v for k, v in ema.items()}
    for i, state in optimiser.state_dict()["state"].items():
        out |= {f"optimiser/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in out.items()}


def _unpack(
    tensors: dict[str, Tensor],
    module: nn.Module,
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    part = lambda p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)}  # noqa: E731
    module.load_state_dict(part("model/"))
    for k, v in part("ema/").items():
        ema[k].copy_(v)
    state: dict[int, dict[str, Tensor]] = {}
    for k, v in part("optimiser/").items():
        i, name = k.split("/", 1)
        state.setdefault(int(i), {})[name] = v
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _write_checkpoint(
    file: Path,
    tensors: dict[str, Tensor],
    step: int,
    settings: LoopSettings,
    sums: dict[str, float],
) -> None:
    """sums: of the losses since the last line of the log, so that a resumed log is the same."""
    part = file.with_suffix(".part")
    meta = {"step": str(step), "settings": json.dumps(asdict(settings)), "sums": json.dumps(sums)}
    save_file(tensors, part, meta)
    part.replace(file)


def _keep_rows(file: Path, step: int) -> None:
    """Drop the rows that a killed run logged after its last checkpoint."""
    if not file.exists():
        return
    lines = file.read_text().splitlines()
    kept = lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
    file.write_text("\n".join(kept) + "\n")


def fit(
    module: nn.Module,
    loss: Callable[[int], dict[str, Tensor]],
    settings: LoopSettings,
    folder: Path,
    *,
    on_checkpoint: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Train module's parameters that require gradients; return the EMA of its state.

    Args:
        module: what to train, already on its device.
        loss: micro-batch number -> named scalar losses; ``"loss"`` is minimised, all are logged.
        settings: schedule and optimiser.
        folder: keeps ``checkpoint.safetensors`` and ``loss.csv``; training resumes from it.
        on_checkpoint: called with the step and the EMA state at each checkpoint.

    Raises:
        UserError: when the loss is not finite; the last good checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, log_file = folder / "checkpoint.safetensors", folder / "loss.csv"
    trained = [p for p in module.parameters() if p.requires_grad]
    fused = trained[0].device.type == "cuda"
    optimiser = torch.optim.AdamW(
        trained,
        settings.learning_rate,
        settings.betas,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
    ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
    device, start = trained[0].device.type, 0
    sums: dict[str, float] = {}
    if file.exists():
        with safe_open(file, "pt") as f:
            start = int(f.metadata()["step"])
            sums = json.loads(f.metadata().get("sums", "{}"))
            _unpack({k: f.get_tensor(k) for k in f.keys()}, module, ema, optimiser)  # noqa: SIM118
        _keep_rows(log_file, start)
        log.info("resuming at step %d of %d", start, settings.steps)
    autocast = settings.dtype != "float32"
    began = time.monotonic()
    for step in range(start, settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate(step)
        optimiser.zero_grad(set_to_none=True)
        for micro in range(settings.accumulate):
            context = (
                torch.autocast(device, getattr(torch, settings.dtype))
                if autocast
                else contextlib.nullcontext()
            )
            with context:
                parts = loss(step * settings.accumulate + micro)
            (parts["loss"] / settings.accumulate).backward()
            for k, v in parts.items():
                sums[k] = sums.get(k, 0.0) + float(v.detach())
        norm = nn.utils.clip_grad_norm_(trained, settings.clip)
        if not math.isfinite(sums["loss"]) or not bool(torch.isfinite(norm)):
            raise UserError(
                f"loss is not finite at step {step}; the last good checkpoint is {file}"
                f" (try a learning rate below {settings.learning_rate:g})"
            )
        optimiser.step()
        done = step + 1
        decay = min(settings.ema, (1 + done) / (10 + done))
        with torch.no_grad():
            for k, v in module.state_dict().items():
                if v.is_floating_point():
                    ema[k].lerp_(v, 1 - decay)
                else:
                    ema[k].copy_(v)
        if done % settings.log_every == 0 or done == settings.steps:
            n = (done - (done - 1) // settings.log_every * settings.log_every) * settings.accumulate
            new = not log_file.exists()
            with log_file.open("a", newline="") as f:
                writer = csv.writer(f)
                if new:
                    writer.writerow(["step", "rate", "images_per_s", *sums])
                speed = (
                    (done - start)
                    * settings.batch
                    * settings.accumulate
                    / (time.monotonic() - began)
                )
                row = [f"{v / n:.6g}" for v in sums.values()]
                writer.writerow([done, f"{settings.rate(step):.4g}", f"{speed:.1f}", *row])
            log.info(
                "step %d/%d %s %.0f images/s",
                done,
                settings.steps,
                dict(zip(sums, row, strict=True)),
                speed,
            )
            sums = {}
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            _write_checkpoint(file, _pack(module, ema, optimiser), done, settings, sums)
            if on_checkpoint is not None:
                on_checkpoint(done, ema)
    return ema
