"""SUN's Table 3 in its shape: the paper's seconds, ours, and how many times as fast each is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from sunbench.paper.catalogue import Entry
from sunbench.paper.numbers import Printed, printed
from sunbench.paper.page import Marks, Page
from sunbench.paper.timing import ModelTimes
from sunbench.paper.variants import BASE, VARIANTS
from sunbench.report.texts import number
from sunbench.store.timings import Spread, TimingRow, spread

MACHINES = (("V100", "fp32"), ("M1Pro", "fp16"))
COMPONENTS = ("pipeline", "unet")
_VARIANTS = {variant.row: variant for variant in VARIANTS}


def page(entry: Entry, times: ModelTimes) -> Page:
    """The table of one model."""
    doubts, flags = Marks("123456789"), Marks("abcdefghijklmnopqrstuvwxyz")
    model = times.request.model
    head = (
        "method (steps)",
        "NFE",
        *(f"{machine} {c} s (paper)" for machine, _ in MACHINES for c in COMPONENTS),
        *(f"here {c} s" for c in COMPONENTS),
        "V100 unet speed-up (paper)",
        "here unet speed-up",
        "V100 pipeline speed-up (paper)",
        "here pipeline speed-up",
    )
    lines = tuple(_line(row, doubts, flags) for row in times.rows)
    marked = [*flags.notes(), *(f"{n} (paper)" for n in doubts.notes())]
    return Page(
        f"{entry.name}-{model}",
        f"{entry.name}: {entry.title}, {model}",
        _lead(entry, times),
        head,
        lines,
        (*_notes(times), *marked),
        tuple(r for row in times.rows for r in _records(entry, times, row)),
    )


# ------------------------------------------------------------------------------ cells


def _seconds(row: TimingRow, component: str) -> Spread:
    return spread(row.seconds if component == "pipeline" else row.unet_seconds)


def _speed_up(row: TimingRow, component: str) -> Spread:
    gain = row.speed_up if component == "pipeline" else row.unet_speed_up
    assert gain is not None  # every pass of this table has its reference
    return gain


def _paper(row: str, machine: str, component: str) -> Printed | None:
    places = {(p["row"], p["hardware"], p["component"]): p for p in printed("sun-3")}
    return places.get((row, machine, component))


def _paper_gain(row: str, component: str) -> str:
    one, base = _paper(row, "V100", component), _paper(BASE, "V100", component)
    return "–" if one is None or base is None else f"{base.value / one.value:.2f}x"


def _text(three: Spread, unit: str = "") -> str:
    middle, low, high = (number(x) for x in three)
    return f"{middle}{unit} [{low}, {high}]"


def _line(row: TimingRow, doubts: Marks, flags: Marks) -> tuple[str, ...]:
    theirs = [_paper(row.method, machine, c) for machine, _ in MACHINES for c in COMPONENTS]
    seconds = ["–" if p is None else p.text + doubts.mark(p.doubt) for p in theirs]
    mark = flags.mark("; ".join(row.flags))
    gains = []
    for c in ("unet", "pipeline"):
        gains += [_paper_gain(row.method, c), _text(_speed_up(row, c), "x") + mark]
    ours = [_text(_seconds(row, c)) + mark for c in COMPONENTS]
    return (row.method, f"{row.nfe:.0f}", *seconds, *ours, *gains)


# ------------------------------------------------------------------------------ words


def _lead(entry: Entry, times: ModelTimes) -> tuple[str, ...]:
    request, machine = times.request, times.rows[0].machine
    side = request.resolution
    return (
        f"{entry.number} of {entry.protocol.title}. One image of {side}x{side} pixels, batch 1,"
        f" {request.dtype}, on {machine.device}, {machine.threads} threads: median of"
        f" {request.rounds} rounds after {request.warm_up} untimed, quartiles in brackets; methods"
        " take turns within each round, speed-ups are ratios within rounds to DPM-Solver++ (25)"
        " with batched guidance.",
        f"Clocks before: {_words(machine.clocks_before)}; after: {_words(machine.clocks_after)}."
        f" Load before {machine.load_before:.1f}, after {machine.load_after:.1f}."
        f" torch {machine.versions['torch']}, TF32 of matmul {_switch(machine.tf32_matmul)}, of"
        f" cuDNN {_switch(machine.tf32_cudnn)}, {machine.memory_format}, U-Net of"
        f" {times.unet_parameters:,} parameters.",
    )


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _words(clocks: dict[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in clocks.items()) or "not reported by the system"


def _notes(times: ModelTimes) -> list[str]:
    request = times.request
    out = [
        "Seconds: another machine, so they cannot be set against the paper's (V100 in fp32, M1 Pro"
        " in fp16); speed-ups can be, as far as the network has the same shape.",
        "Weights: adapter, LoRA and student have the right shapes and were not trained; seconds do"
        " not depend on their values. Pipeline: text encoder, sampler, VAE decoder. SUN (4) is the"
        " paper's form, which Table 3 times; quality is measured with the released form.",
    ]
    if request.model not in ("sd1.5", "sd1.5-shape"):
        out.append(f"Model: {request.model} is not Stable Diffusion v1.5, so its shares differ.")
    if request.dtype != "float32":
        out.append(f"Precision: {request.dtype}, the V100 column is fp32.")
    notes = [(row.method, _VARIANTS[row.method].note) for row in times.rows]
    return out + [f"{name}: {note}." for name, note in notes if note]


# ------------------------------------------------------------------------------ CSV


def _records(entry: Entry, times: ModelTimes, row: TimingRow) -> Iterator[dict[str, object]]:
    for component in COMPONENTS:
        median, low, high = _seconds(row, component)
        gain, gain_low, gain_high = _speed_up(row, component)
        papers = {machine: _paper(row.method, machine, component) for machine, _ in MACHINES}
        yield {
            "table": entry.name,
            "row": row.method,
            "steps": row.steps,
            "cfg": _VARIANTS[row.method].cfg,
            "component": component,
            **{f"paper_{m}": None if p is None else p.value for m, p in papers.items()},
            "seconds": median,
            "low": low,
            "high": high,
            "speed_up": gain,
            "speed_up_low": gain_low,
            "speed_up_high": gain_high,
            "nfe": row.nfe,
            **asdict(times.request),
            "device_name": row.machine.device,
            "flags": "; ".join(row.flags),
        }
