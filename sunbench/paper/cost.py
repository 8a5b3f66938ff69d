"""What A-SDM's tables leave out: time, size and work of each network beside how far images move."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sunbench.bench.progress import Progress
from sunbench.bench.run import execute
from sunbench.metrics.registry import find_metric
from sunbench.models import ModelCard, load
from sunbench.paper.catalogue import Entry
from sunbench.paper.page import Marks, Page
from sunbench.paper.plan import ModelMap, Options, jobs, map_models
from sunbench.registry import METHODS, method, turns
from sunbench.report.texts import by_network, evaluations, number
from sunbench.store import ResultRow, RunFolder
from sunbench.store.timings import Spread, TimingRow


@dataclass(frozen=True)
class Size:
    """Parameters of all networks that a method holds; multiplications of a mean evaluation."""

    parameters: int
    macs: float


def macs_of(unet: Any, tokens: int) -> float:
    """Multiplications of one evaluation of one image at the network's own size, counted."""
    meta, size = copy.deepcopy(unet).to("meta"), unet.config.sample_size
    x = torch.empty(1, unet.config.in_channels, size, size, device="meta")
    text = torch.empty(1, tokens, unet.config.cross_attention_dim, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(x.to(unet.dtype), torch.tensor(1, device="meta"), text.to(unet.dtype))
    return counter.get_total_flops() / 2


def size_of(unet: Any, tokens: int) -> Size:
    """Of one network."""
    return Size(sum(p.numel() for p in unet.parameters()), macs_of(unet, tokens))


def sizes(card: ModelCard, names: tuple[str, ...], weights: dict[str, str]) -> dict[str, Size]:
    """The size of each method that can run on a model at its steps."""
    loaded = load(card)
    pipeline, tokens = loaded.pipeline, int(loaded.pipeline.tokenizer.model_max_length)
    out: dict[str, Size] = {}
    for name in names:
        steps = sum(n for _, n in turns(name)) or 25
        settings = _settings(steps, card.guidance_scale)
        ready = method(name, weights=weights, model=loaded.context)
        if ready.skip(pipeline, settings) is not None:
            continue
        sampler: Any = ready.prepare(pipeline, settings)
        networks = getattr(sampler, "networks", {name: sampler.pipeline.unet})
        each = {n: size_of(unet, tokens) for n, unet in networks.items()}
        shares = {n: k / steps for n, k in turns(name)} or {name: 1.0}
        macs = sum(each[n].macs * share for n, share in shares.items())
        out[name] = Size(sum(s.parameters for s in each.values()), macs)
        ready.release(pipeline)
    return out


def _settings(steps: int, guidance_scale: float) -> Any:
    from sunbench.sampling import SampleSettings

    return SampleSettings(steps, guidance_scale)


# ------------------------------------------------------------------------------ page

HEAD = (
    "method",
    "",
    "parameters",
    "GMACs",
    "NFE",
    "U-Net ms",
    "U-Net speed-up",
    "image ms",
    "speed-up",
    "distance to the unpruned",
)


def make_cost(entry: Entry, options: Options, run: Path, progress: Progress) -> list[Page]:
    """Run the table's methods with a timing pass; one page per model."""
    models = map_models(entry, options.models, options.device)
    job = jobs(entry, models, options, run)[0]
    execute(job.request, job.folder, progress)
    folder = RunFolder(job.folder)
    rows, times = folder.read_results(), folder.read_results_document().timing
    own = dict(job.request.weights)
    return [_page(entry, models, card, rows, times, own) for card in models.cards]


def _page(
    entry: Entry,
    models: ModelMap,
    card: ModelCard,
    rows: list[ResultRow],
    times: tuple[TimingRow, ...],
    weights: dict[str, str],
) -> Page:
    names = entry.methods("")
    size, marks, records, lines = sizes(card, names, weights), Marks("abcdefghijklm"), [], []
    for row in entry.rows:
        record = _record(row.method, card, size, rows, times)
        mark = marks.mark(METHODS[row.method].caveat)
        why = marks.mark(str(record["missing"]))
        doubt = marks.mark(str(record["flags"]))
        lines.append((row.name + mark, "here", *_shown(record, why, doubt)))
        records.append({"table": entry.name, "row": row.name, "model": card.name, **record})
    lead = (
        f"Time, size and work of {entry.protocol.title}'s networks on {card.name}, which the"
        " paper's tables leave out, and how far each image moves from the unpruned network's at the"
        " same noise and solver (DPM-Solver++, 25 steps).",
        "Times: medians of a pass of their own at batch 1; speed-ups are to the reference.",
    )
    return Page(
        f"{entry.name}-{card.name}",
        f"{entry.name}: {entry.title}, {card.name}",
        lead,
        HEAD,
        tuple(lines),
        tuple(marks.notes()),
        tuple(records),
    )


def _record(
    name: str,
    card: ModelCard,
    size: dict[str, Size],
    rows: list[ResultRow],
    times: tuple[TimingRow, ...],
) -> dict[str, Any]:
    mine = [r for r in rows if (r.model, r.method, r.role) == (card.name, name, "candidate")]
    paired = [r for r in mine if find_metric(r.metric).metric.compares == "pairs"]
    distance = next((r for r in paired if r.metric.startswith(("perceptual", "lpips"))), None)
    time = next(
        (t for t in times if (t.model, t.method, t.batch) == (card.name, name, 1)),
        None,
    )
    nfe = None if distance is None else distance.nfe
    missing = next((r.reason or "" for r in mine if r.value is None), "" if mine else "not run")
    return {
        "method": name,
        "networks": " ".join(dict.fromkeys(n for n, _ in turns(name))) or name,
        "parameters": size[name].parameters if name in size else None,
        "gmacs": size[name].macs / 1e9 if name in size else None,
        "nfe": nfe,
        "nfe_by_network": by_network(name, nfe),
        "unet_ms": None if time is None else time.unet_ms.median,
        "unet_speed_up": _median(None if time is None else time.unet_speed_up),
        "image_ms": None if time is None else time.latency_ms.median,
        "speed_up": _median(None if time is None else time.speed_up),
        "flags": "" if time is None else "; ".join(time.flags),
        "metric": "" if distance is None else distance.metric,
        "distance": None if distance is None else distance.value,
        "low": None if distance is None else distance.low,
        "high": None if distance is None else distance.high,
        "missing": "" if distance is not None and distance.value is not None else missing,
    }


def _median(three: Spread | None) -> float | None:
    return None if three is None else three.median


def _shown(record: dict[str, Any], why: str, doubt: str) -> list[str]:
    """The cells of a row; doubt: the mark of what is measured in time, where it is flagged."""

    def text(name: str, form: str = "") -> str:
        value = record[name]
        return "–" if value is None else format(value, form) if form else number(value)

    interval = "" if record["low"] is None else f" [{text('low')}, {text('high')}]"
    distance = "n/a" if record["distance"] is None else text("distance") + interval
    return [
        text("parameters", ","),
        text("gmacs", ".4g"),
        evaluations(record["method"], record["nfe"]),
        text("unet_ms") + doubt,
        text("unet_speed_up", ".2f") + doubt,
        text("image_ms") + doubt,
        text("speed_up", ".2f") + doubt,
        distance + why,
    ]
