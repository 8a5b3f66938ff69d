"""SUN's Table 3 in its shape: the paper's seconds, ours, and how many times faster each is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sunbench.paper.catalogue import Entry
from sunbench.paper.numbers import Printed, printed
from sunbench.paper.page import Marks, Page
from sunbench.paper.timing import Times, Timing, ratio, spread, time_model, times_of
from sunbench.report.tables import number
from sunbench.store import write_atomic
from sunbench.store.files import make_folder, read_versioned, to_json

SCHEMA_VERSION = 1
MACHINES = (("V100", "fp32"), ("M1Pro", "fp16"))
COMPONENTS = ("pipeline", "unet")
BASE = "DPM-Solver++ (25)"


def timed(
    run: Path,
    specs: Sequence[str],
    wanted: Callable[[str], Timing],
    told: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The documents of these models: those kept in a run with the same settings, else measured."""
    file = run / "sun-3.json"
    held = read_versioned(file, SCHEMA_VERSION, "`sunbench paper sun-3`") if file.exists() else {}
    documents: dict[str, Any] = {json.dumps(d["timing"]): d for d in held.get("models", [])}
    out = []
    for spec in specs:
        asked = wanted(spec)
        label = json.dumps(asdict(asked))
        if label not in documents:
            told(f"{spec}: measuring")
            documents[label] = time_model(
                spec,
                device=asked.device,
                dtype=asked.dtype,
                rounds=asked.rounds,
                warm_up=asked.warm_up,
                told=told,
            )
            make_folder(run)
            kept = {"schema_version": SCHEMA_VERSION, "models": list(documents.values())}
            write_atomic(file, to_json(kept))
        out.append(documents[label])
    return out


# ------------------------------------------------------------------------------ page


def page(entry: Entry, document: dict[str, Any]) -> Page:
    """The table of one model."""
    times, doubts = times_of(document), Marks("123456789")
    base = next(t for t in times if t.row == BASE)
    t = document["timing"]
    lines = tuple(_line(x, base, doubts) for x in times)
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
    return Page(
        f"{entry.name}-{t['model']}",
        f"{entry.name}: {entry.title}, {t['model']}",
        _lead(entry, document),
        head,
        lines,
        tuple([*_notes(times, document), *(f"{n} (paper)" for n in doubts.notes())]),
        tuple(r for x in times for r in _records(entry, document, x, base)),
    )


def _paper(row: str, machine: str, component: str) -> Printed | None:
    places = {(p["row"], p["hardware"], p["component"]): p for p in printed("sun-3")}
    return places.get((row, machine, component))


def _text(three: tuple[float, float, float], unit: str = "") -> str:
    middle, low, high = (number(x) for x in three)
    return f"{middle}{unit} [{low}, {high}]"


def _line(x: Times, base: Times, doubts: Marks) -> tuple[str, ...]:
    theirs = [_paper(x.row, machine, c) for machine, _ in MACHINES for c in COMPONENTS]
    seconds = ["–" if p is None else p.text + doubts.mark(p.doubt) for p in theirs]
    gains = []
    for c in ("unet", "pipeline"):
        gains += [_paper_gain(x.row, c), _text(ratio(base.component(c), x.component(c)), "x")]
    ours = [_text(spread(x.component(c))) for c in COMPONENTS]
    return (x.row, f"{x.nfe:.0f}", *seconds, *ours, *gains)


def _paper_gain(row: str, component: str) -> str:
    one, base = _paper(row, "V100", component), _paper(BASE, "V100", component)
    return "–" if one is None or base is None else f"{base.value / one.value:.2f}x"


def _lead(entry: Entry, document: dict[str, Any]) -> tuple[str, ...]:
    t = document["timing"]
    return (
        f"{entry.number} of {entry.protocol.title}. One image of {t['resolution']}x"
        f"{t['resolution']} pixels, batch 1, {t['dtype']}, on {document['device']}: median of"
        f" {t['rounds']} rounds after {t['warm_up']} untimed, quartiles in brackets; methods take"
        " turns within a round, speed-ups are ratios within rounds to DPM-Solver++ (25) with"
        " batched guidance.",
        f"Clocks before: {_words(document['clocks_before'])}; after:"
        f" {_words(document['clocks_after'])}. torch {document['torch']}, TF32"
        f" {'on' if document['tf32'] else 'off'}, U-Net of"
        f" {document['unet_parameters']:,} parameters.",
    )


def _words(found: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in found.items()) or "not told by the system"


def _notes(times: Sequence[Times], document: dict[str, Any]) -> list[str]:
    t = document["timing"]
    out = [
        "Seconds: another machine, so they cannot be set against the paper's (V100 in fp32, M1 Pro"
        " in fp16); speed-ups can be, as far as the network has the same shape.",
        "Weights: adapter, LoRA and student have the right shapes and were not trained; seconds do"
        " not depend on their values. Pipeline: text encoder, sampler, VAE decoder.",
    ]
    if t["model"] not in ("sd1.5", "sd1.5-shape"):
        out.append(f"Model: {t['model']} is not Stable Diffusion v1.5, so its shares differ.")
    if t["dtype"] != "float32":
        out.append(f"Precision: {t['dtype']}, the V100 column is fp32.")
    return out + [f"{x.row}: {x.note}." for x in times if x.note]


def _records(entry: Entry, document: dict[str, Any], x: Times, base: Times) -> list[dict[str, Any]]:
    return [_record(entry, document, x, base, c) for c in COMPONENTS]


def _record(
    entry: Entry, document: dict[str, Any], x: Times, base: Times, component: str
) -> dict[str, Any]:
    t = document["timing"]
    median, low, high = spread(x.component(component))
    gain, gain_low, gain_high = ratio(base.component(component), x.component(component))
    paper = {
        f"paper_{machine}": None if p is None else p.value
        for machine, _ in MACHINES
        for p in [_paper(x.row, machine, component)]
    }
    return {
        "table": entry.name,
        "row": x.row,
        "steps": x.steps,
        "cfg": x.cfg,
        "component": component,
        **paper,
        "seconds": median,
        "low": low,
        "high": high,
        "speed_up": gain,
        "speed_up_low": gain_low,
        "speed_up_high": gain_high,
        "nfe": x.nfe,
        **t,
        "device_name": document["device"],
    }
