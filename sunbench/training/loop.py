"""The training loop: AdamW, warm-up/stable/decay schedule, EMA, checkpoints that resume bit-exact.

The loss is a function of the step number alone (it draws its batch and noise from generators seeded
by that number), so a run that was killed and resumed equals one that was not. Several processes
share the micro-batches of an update (``sunbench.training.workers``).
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sunbench.errors import UserError
from sunbench.store.files import read_text
from sunbench.store.tensors import load_tensors, read_header
from sunbench.training.prefetch import Prefetcher
from sunbench.training.workers import workers

log = logging.getLogger(__name__)

#: By name; ``"loss"`` is minimized.
Losses = dict[str, Tensor]

#: Settings that may change while a training goes on.
FLEXIBLE = {"steps", "decay", "checkpoint_every", "log_every"}


#: Seeds are multiplied and added to before a generator takes 64 bits of them.
LARGEST_SEED = 2**32 - 1


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless value is finite and low <= value <= high."""
    if not (low <= value <= high and abs(value) <= 2**63):
        ends = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
        shown = f"{value:g}" if isinstance(value, float) else str(value)[:24]
        raise UserError(f"given {name} = {shown}, expected {ends}")


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

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "checkpoint_every", "log_every"):
            within(name, getattr(self, name), 1, 10**9)
        for name in ("ema", "decay"):
            within(name, getattr(self, name), 0, 1)
        within("learning_rate", self.learning_rate, 1e-12, 10)
        within("weight_decay", self.weight_decay, 0, 100)
        within("warmup", self.warmup, 0, 10**9)
        within("clip", self.clip, 1e-12, 10**9)
        within("seed", self.seed, 0, LARGEST_SEED)
        if len(self.betas) != 2:
            raise UserError(f"given betas = {list(self.betas)!r:.80}, expected two")
        for beta in self.betas:
            within("betas", beta, 0, 1 - 1e-9)

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


#: In the names of a checkpoint's tensors; checkpoints on disk have this spelling.
_OPTIMIZER = "optimiser/"


def _pack(
    module: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    out = {f"model/{k}": v for k, v in module.state_dict().items()}
    out |= {f"ema/{k}": v for k, v in ema.items()}
    for i, state in optimizer.state_dict()["state"].items():
        out |= {f"{_OPTIMIZER}{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in out.items()}


def _unpack(
    tensors: dict[str, Tensor],
    module: nn.Module,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    part = lambda p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)}  # noqa: E731
    module.load_state_dict(part("model/"))
    for k, v in part("ema/").items():
        ema[k].copy_(v)
    state: dict[int, dict[str, Tensor]] = {}
    for k, v in part(_OPTIMIZER).items():
        i, name = k.split("/", 1)
        state.setdefault(int(i), {})[name] = v
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _write_checkpoint(
    file: Path,
    tensors: dict[str, Tensor],
    step: int,
    settings: LoopSettings,
    sums: dict[str, float],
    seconds: float,
) -> None:
    """sums: of the losses since the last line of the log, so that a resumed log is the same."""
    part = file.with_suffix(".part")
    meta = {"step": str(step), "settings": json.dumps(asdict(settings)), "sums": json.dumps(sums)}
    save_file(tensors, part, {**meta, "seconds": repr(seconds)})
    part.replace(file)


@contextmanager
def _expected(file: Path, what: str) -> Iterator[None]:
    """One line where a file turns out to be something else."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{file}: given something else, expected {what}; move it away to begin anew"
        ) from error


def check_begun(
    file: Path, begun: Mapping[str, object], asked: Mapping[str, object], free: Collection[str]
) -> None:
    """Raise UserError where a training was begun with other settings; free ones may change."""
    for name in sorted((asked.keys() | begun.keys()) - set(free)):
        if begun.get(name) != asked.get(name):
            raise UserError(
                f"{file} was begun with {name} = {begun.get(name)}, asked {asked.get(name)};"
                " go on with that or start in another folder"
            )


def _keep_rows(file: Path, step: int) -> None:
    """Drop the rows that a killed run logged after its last checkpoint."""
    if not file.exists():
        return
    lines = read_text(file).splitlines()
    kept = lines[:1] + [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
    file.write_text("\n".join(kept) + "\n")


class TrainingLoop:
    """The state of one training: what is trained, its optimizer, its average and its logs."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[int], Losses],
        settings: LoopSettings,
        folder: Path,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.workers = workers()
        self.share = self.workers.share(settings.accumulate)
        self.module, self.loss, self.settings = module, loss, settings
        self.file, self.log_file = folder / "checkpoint.safetensors", folder / "loss.csv"
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.device = self.trained[0].device.type
        self.optimizer = self._optimizer()
        self.ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.sums: dict[str, float] = {}
        self.seconds = 0.0  # of all steps since the first, resumed or not
        self.start = self._resume() if self.file.exists() else 0
        self.began = time.monotonic()

    def _optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.AdamW(
            self.trained, s.learning_rate, s.betas, weight_decay=s.weight_decay, fused=True
        )

    def _resume(self) -> int:
        """Load the checkpoint; returns the number of steps done."""
        meta = read_header(self.file).metadata
        with _expected(self.file, "a checkpoint of this training"):
            self._check(json.loads(meta["settings"]))
            _unpack(load_tensors(self.file), self.module, self.ema, self.optimizer)
            self.sums = json.loads(meta.get("sums", "{}"))
            self.seconds = float(meta.get("seconds", 0))
            done = int(meta["step"])
        if self.workers.first:
            with _expected(self.log_file, "the log of this training"):
                _keep_rows(self.log_file, done)
        log.info("resuming at step %d of %d", done, self.settings.steps)
        return done

    def _check(self, begun: Mapping[str, object]) -> None:
        """Only the length of a training may change while it goes on."""
        asked = json.loads(json.dumps(asdict(self.settings)))
        check_begun(self.file, {name: begun.get(name) for name in asked}, asked, FLEXIBLE)

    def save(self, done: int) -> None:
        """Write the checkpoint."""
        self.settle(done)
        tensors = _pack(self.module, self.ema, self.optimizer)
        _write_checkpoint(self.file, tensors, done, self.settings, self.sums, self.seconds)

    def not_finite(self, step: int) -> UserError:
        """The error for a loss that is none."""
        return UserError(
            f"loss is not finite at step {step}; the last good checkpoint is {self.file}"
            f" (try a learning rate below {self.settings.learning_rate:g})"
        )

    def settle(self, done: int) -> None:
        """Bring the sums of the losses up to date; nothing to do where they always are."""

    def decay(self, done: int) -> float:
        """Of the average after a number of updates: its window grows at the start."""
        return min(self.settings.ema, (1 + done) / (10 + done))

    def step(self, step: int) -> None:
        """One update: gradients of all micro-batches, clipping, AdamW, average."""
        s, began = self.settings, time.monotonic()
        losses: list[tuple[str, Tensor]] = []
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        for micro in self.share:
            with self._arithmetic():
                parts = self.loss(step * s.accumulate + micro)
            (parts["loss"] / s.accumulate).backward()
            losses += [(k, v.detach()) for k, v in parts.items()]
        self._gather(losses)
        norm = nn.utils.clip_grad_norm_(self.trained, s.clip)
        if not math.isfinite(self.sums["loss"]) or not bool(torch.isfinite(norm)):
            raise self.not_finite(step)
        self.optimizer.step()
        self._average(step + 1)
        self.seconds += time.monotonic() - began

    def _gather(self, losses: list[tuple[str, Tensor]]) -> None:
        """Sum gradients and losses over all processes; add the losses to those not yet logged.

        The device is waited for once, however many losses and micro-batches there are.
        """
        sums: dict[str, float] = {}
        values = torch.stack([v.float() for _, v in losses]).tolist()
        for (k, _), v in zip(losses, values, strict=True):
            sums[k] = sums.get(k, 0.0) + v
        if self.workers.count > 1:
            total = torch.tensor(list(sums.values()), device=self.trained[0].device)
            self.workers.sum_([p.grad for p in self.trained if p.grad is not None] + [total])
            sums = dict(zip(sums, total.tolist(), strict=True))
        for k, v in sums.items():
            self.sums[k] = self.sums.get(k, 0.0) + v

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """Autocast; on CPU with attention as plain products.

        The fused kernel's bfloat16 backward is slow there: 154 images/s of the zoo's U-Net on two
        cores, 226 without it.
        """
        if self.settings.dtype == "float32":
            return nullcontext()
        stack = ExitStack()
        stack.enter_context(torch.autocast(self.device, getattr(torch, self.settings.dtype)))
        if self.device == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack

    @torch.no_grad()
    def _average(self, done: int) -> None:
        """Exponential average."""
        state = self.module.state_dict()
        w = 1 - self.decay(done)
        smooth = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.ema[k] for k in smooth], [state[k] for k in smooth], w)
        for k in state.keys() - set(smooth):
            self.ema[k].copy_(state[k])

    def report(self, done: int) -> dict[str, float]:
        """Append the mean losses since the last report to the log; return them."""
        self.settle(done)
        s = self.settings
        n = (done - (done - 1) // s.log_every * s.log_every) * s.accumulate
        values = {k: v / n for k, v in self.sums.items()}
        means = {k: f"{v:.6g}" for k, v in values.items()}
        images = (done - self.start) * s.batch * s.accumulate
        speed = images / (time.monotonic() - self.began)
        row = {"step": done, "rate": f"{s.rate(done - 1):.4g}", "images_per_s": f"{speed:.1f}"}
        with self.log_file.open("a", newline="") as file:
            log_rows = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                log_rows.writerow(row | means)
            log_rows.writerow((row | means).values())
        log.info("step %d/%d %s %.0f images/s", done, s.steps, means, speed)
        self.sums = {}
        return {**values, "learning_rate": s.rate(done - 1), "images_per_s": speed}


def _loop(
    module: nn.Module,
    loss: Callable[..., Losses],
    batches: Callable[[int], Sequence[Tensor]] | None,
    settings: LoopSettings,
    folder: Path,
) -> TrainingLoop:
    """The loop that suits the device."""
    if batches is None:
        return TrainingLoop(module, loss, settings, folder)
    device = next(p.device for p in module.parameters() if p.requires_grad)
    prefetched = Prefetcher(batches, device, processes=4)
    if device.type == "cuda" and settings.accumulate == 1 and workers().count == 1:
        from sunbench.training.graph import GraphedLoop

        return GraphedLoop(module, loss, prefetched, settings, folder)

    def by_number(k: int) -> Losses:
        return loss(*(t.to(device) for t in prefetched(k)))

    return TrainingLoop(module, by_number, settings, folder)


def cpu_has_bfloat16() -> bool:
    """Whether products in bfloat16 are faster on this CPU; true where torch does not say."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return True


def fit(
    module: nn.Module,
    loss: Callable[..., Losses],
    settings: LoopSettings,
    folder: Path,
    *,
    batches: Callable[[int], Sequence[Tensor]] | None = None,
    on_begin: Callable[[dict[str, Tensor]], None] | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Train module's parameters that require gradients; return the EMA of its state.

    Args:
        module: what to train, already on its device.
        loss: micro-batch number -> named scalar losses; ``"loss"`` is minimized, all are logged.
        settings: schedule and optimizer.
        folder: keeps ``checkpoint.safetensors`` and ``loss.csv``; training resumes from it.
        batches: micro-batch number -> tensors on the CPU, by the number alone and of fixed shapes.
            With it ``loss`` takes these, on the module's device, in place of the number; they are
            made in processes meanwhile and an update is one graph where the device is CUDA's.
        on_begin: called once, before the first step, with the EMA state. Training updates these
            tensors in place, so a network made of them is the average at every step, also after
            a resume.
        on_log: called with the step and the mean losses since the last time, the rate and the
            speed, in the first process alone.
        on_checkpoint: called with the step and the EMA state at each checkpoint, in the first
            process alone where there are several (``sunbench.training.workers``).

    Raises:
        UserError: when the loss is not finite (the last good checkpoint stays), or the folder
            holds a training with other settings.
    """
    loop = _loop(module, loss, batches, settings, folder)
    if on_begin is not None:
        on_begin(loop.ema)
    first = loop.workers.first
    if first and settings.dtype == "bfloat16" and loop.device == "cpu" and not cpu_has_bfloat16():
        log.warning(
            "this CPU has no bfloat16 instructions, so it trains several times slower than with"
            ' dtype = "float32" under [loop]'
        )
    for step in range(loop.start, settings.steps):
        loop.step(step)
        done = step + 1
        if first and (done % settings.log_every == 0 or done == settings.steps):
            values = loop.report(done)
            if on_log is not None:
                on_log(done, values)
        if first and (done % settings.checkpoint_every == 0 or done == settings.steps):
            loop.save(done)
            if on_checkpoint is not None:
                on_checkpoint(done, loop.ema)
    loop.workers.wait()
    return loop.ema
