"""From the turns of a pass to rows: spreads, speed-ups, and what makes them untrustworthy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, TypedDict

import torch

from sunbench import __version__
from sunbench.models import LoadedModel
from sunbench.models.protocols import Pipeline
from sunbench.store.timings import Spread, TimingMachine, TimingRow, ratio, spread
from sunbench.timing.machine import device_name
from sunbench.timing.memory import memory_kind
from sunbench.timing.rounds import BatchTurns, TimedMethod, Turn

#: Other processes may keep this share of the available CPUs, or of the GPU, busy.
BUSY_SHARE = 0.1
#: A speed-up may exceed the ratio of NFE by this share, which the clock's own noise explains.
NFE_TOLERANCE = 0.05
#: Quartiles farther apart than this share of the median are unsteady.
UNSTEADY_SHARE = 0.25
#: With fewer rounds the quartiles say nothing.
FEW_ROUNDS = 3


@dataclass(frozen=True)
class MachineState:
    """Load and clocks around a pass."""

    load_before: float
    load_after: float
    other_cpus: float
    cpus: int
    clocks_before: dict[str, str]
    clocks_after: dict[str, str]


def timing_rows(
    loaded: LoadedModel,
    batches: list[BatchTurns],
    resolution: int,
    level: str,
    state: MachineState,
) -> list[TimingRow]:
    """One row per method and batch size; speed-ups are to the reference at the same batch."""
    machine = _machine(loaded.pipeline, state)
    common = {
        "model": loaded.card.name,
        "resolution": resolution,
        "level": level,
        "memory": memory_kind(loaded.pipeline.unet.device),
        "machine": machine,
    }
    return [row for batch in batches for row in _batch_rows(batch, common, busy(machine))]


def _batch_rows(
    batch: BatchTurns, common: dict[str, Any], machine_flags: list[str]
) -> Iterator[TimingRow]:
    columns = list(zip(batch.methods, batch.turns, batch.peaks, strict=True))
    base = next((turns for method, turns, _ in columns if method.role == "reference"), None)
    for method, turns, peak in columns:
        gains = _gains(base, turns)
        yield TimingRow(
            **common,
            **_settings(method),
            batch=batch.batch,
            warm_up=batch.warm_up,
            nfe=turns[-1].nfe,
            text_seconds=tuple(t.text for t in turns),
            sampler_seconds=tuple(t.sampler for t in turns),
            unet_seconds=tuple(t.unet for t in turns),
            decoder_seconds=tuple(t.decoder for t in turns),
            **gains,
            peak_bytes=peak,
            flags=(*machine_flags, *_row_flags(turns, gains, method.cheaper_passes)),
            cheaper_passes=method.cheaper_passes,
        )


def _settings(method: TimedMethod) -> dict[str, Any]:
    s = method.settings
    return {
        "method": method.method,
        "role": method.role,
        "steps": s.steps,
        "task": s.task,
        "guidance_scale": s.guidance_scale,
    }


class Gains(TypedDict):
    """How many times as fast as the reference; None where there is none to compare with."""

    speed_up: Spread | None
    unet_speed_up: Spread | None
    nfe_ratio: float | None


def _gains(base: list[Turn] | None, turns: list[Turn]) -> Gains:
    if base is None:
        return {"speed_up": None, "unet_speed_up": None, "nfe_ratio": None}
    network = ([t.unet for t in base], [t.unet for t in turns])
    return {
        "speed_up": ratio([t.seconds for t in base], [t.seconds for t in turns]),
        "unet_speed_up": ratio(*network) if min(network[1]) > 0 else None,
        "nfe_ratio": base[-1].nfe / turns[-1].nfe,
    }


def derived_again(rows: Sequence[TimingRow]) -> list[TimingRow]:
    """The rows of one model with speed-ups, ratios and flags from their seconds alone."""
    bases = {r.batch: _turns(r) for r in rows if r.role == "reference"}
    out = []
    for row in rows:
        gains = _gains(bases.get(row.batch), _turns(row))
        own = _row_flags(_turns(row), gains, row.cheaper_passes)
        flags = (*busy(row.machine), *own)
        out.append(replace(row, **gains, flags=flags))
    return out


def _turns(row: TimingRow) -> list[Turn]:
    parts = (row.text_seconds, row.sampler_seconds, row.unet_seconds, row.decoder_seconds)
    return [Turn(*seconds, row.nfe) for seconds in zip(*parts, strict=True)]


# ------------------------------------------------------------------------------ machine


def _machine(pipeline: Pipeline, state: MachineState) -> TimingMachine:
    unet = pipeline.unet
    return TimingMachine(
        device=device_name(unet.device),
        dtype=str(unet.dtype).removeprefix("torch."),
        memory_format=memory_format(unet),
        threads=torch.get_num_threads(),
        tf32_matmul=bool(torch.backends.cuda.matmul.allow_tf32),
        tf32_cudnn=bool(torch.backends.cudnn.allow_tf32),
        versions=_versions(),
        **vars(state),
    )


def memory_format(unet: torch.nn.Module) -> str:
    """The layout of a network's convolution weights."""
    weights = [p for p in unet.parameters() if p.dim() == 4 and min(p.shape) > 1]
    last = weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    return "channels_last" if last else "contiguous"


def _versions() -> dict[str, str]:
    cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"sunbench": __version__, **packages, **cuda}


# ------------------------------------------------------------------------------ flags


def busy(machine: TimingMachine) -> list[str]:
    """Why a machine was not ours alone during a pass; nothing where it was."""
    reasons = []
    if machine.other_cpus > BUSY_SHARE * machine.cpus:
        words = f"{machine.other_cpus:.1f} of {machine.cpus} CPUs"
        reasons.append(f"busy machine: other processes used {words}")
    used = machine.clocks_before.get("utilization.gpu", "").removesuffix("%").strip()
    if used.isdecimal() and int(used) > 100 * BUSY_SHARE:
        reasons.append(f"busy machine: the GPU was in use ({used} %) before the pass")
    return reasons


def _row_flags(turns: list[Turn], gains: Gains, cheaper_passes: bool) -> list[str]:
    flags = []
    ceiling = None if cheaper_passes else gains["nfe_ratio"]
    for where, gain in (
        ("end to end", gains["speed_up"]),
        ("in the U-Net", gains["unet_speed_up"]),
    ):
        if gain and ceiling and gain.median > ceiling * (1 + NFE_TOLERANCE):
            flags.append(f"{gain.median:.2f}x {where} is above the ratio of NFE, {ceiling:.2f}")
    seconds = spread([t.seconds for t in turns])
    if seconds.high - seconds.low > UNSTEADY_SHARE * seconds.median:
        flags.append("unsteady: the quartiles of its seconds are far apart")
    if len(turns) < FEW_ROUNDS:
        flags.append(f"{len(turns)} timed round{'s' * (len(turns) > 1)}, too few for quartiles")
    return flags
