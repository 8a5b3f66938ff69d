"""The tables, the sheet and the data of a measurement of negative prompts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sunbench.bench.environment import environment
from sunbench.metrics import Estimate
from sunbench.report.formats import csv_text, markdown_table, plain
from sunbench.report.texts import number
from sunbench.store import write_atomic
from sunbench.store.files import make_folder
from sunbench.store.names import file_stems
from sunbench.studies.image_sheet import sheet
from sunbench.studies.negative_data import NegativeRow, Negatives, NegativesRequest
from sunbench.studies.negative_prompts import CLIP

SIDE = 128  # pixels of an image on the sheet
HEAD = [
    "method",
    "steps",
    "NFE",
    "baseline",
    "negated",
    "change",
    "change, absent concept",
    "change relative to CFG's",
    "off by",
]
EXPLANATION = """\
Every image is drawn three times from one noise: without a negative prompt (*baseline*), with one
that names a concept of the image (*negated*), and with one that names another of its kind which
the image does not show. *Change* is the mean paired difference of the concept's score; for the
absent concept it is what any negative prompt does. The first line is the reference,
25-step DPM-Solver++ under classifier-free guidance (CFG): 1 x its change is right, less leaves the
concept, more overshoots, and *off by* is the distance from 1. Intervals: 95 %, bootstrap over
prompts. CLIP score is 100 x cosine of the image and the concept's words.
"""


def _interval(e: Estimate | None) -> str:
    if e is None:
        return "–"
    return f"{_signed(e.value)} [{_signed(e.low)}, {_signed(e.high)}]"


def _signed(x: float) -> str:
    return f"{x:.2f}" if abs(x) >= 10 else f"{x:.3f}"


def _off(row: NegativeRow) -> str:
    """The distance from 1, and in which direction where the interval says so."""
    if row.relative is None or row.off is None:
        return "–"
    side = " (overshoots)" if row.relative.low > 1 else " (too little)"
    return f"{row.off:.2f}{side if not row.relative.low <= 1 <= row.relative.high else ''}"


def _line(row: NegativeRow) -> list[str]:
    head = [row.method, str(row.steps)]
    if row.baseline is None or row.negated is None or row.nfe is None:
        return [*head, "–", "–", "–", str(row.reason), "–", "–", "–"]
    means = [number(row.baseline), number(row.negated)]
    changes = [_interval(e) for e in (row.change, row.absent, row.relative)]
    return [*head, f"{row.nfe:.0f}", *means, *changes, _off(row)]


def markdown(models: Sequence[Negatives]) -> str:
    """The page: a table per model, sort of concept and measure."""
    parts, sheets = ["# Negative prompts", EXPLANATION], sheet_names(models)
    for one in models:
        source = plain(one.prompts)
        parts.append(f"## {plain(one.model)}\n\n{one.images} images per column, prompts {source}.")
        for kind, measure in dict.fromkeys((r.kind, r.measure) for r in one.rows):
            rows = [r for r in one.rows if (r.kind, r.measure) == (kind, measure)]
            what = measure if measure == CLIP else f"{measure}, share of images"
            parts.append(f"### {kind}: {what}\n\n" + markdown_table(HEAD, [_line(r) for r in rows]))
        parts.append(f"![{sheets[one.model]}]({sheets[one.model]})")
    return "\n\n".join(parts) + "\n"


def sheet_names(models: Iterable[Negatives]) -> dict[str, str]:
    """The file of each model's sheet."""
    names = {one.model: f"negatives {one.model}" for one in models}
    stems = file_stems(names.values())
    return {model: f"{stems[name]}.png" for model, name in names.items()}


_ESTIMATES = ("change", "absent", "relative")
_PLAIN = ("model", "method", "steps", "kind", "measure", "nfe", "baseline", "negated")


def csv_of(models: Iterable[Negatives]) -> str:
    """Every row, full precision; intervals as name, name_low, name_high."""
    return csv_text(pd.DataFrame([_record(r, m) for m in models for r in m.rows], dtype=object))


def _record(row: NegativeRow, model: Negatives) -> dict[str, object]:
    record = {name: getattr(row, name) for name in _PLAIN}
    for name in _ESTIMATES:
        e: Estimate | None = getattr(row, name)
        values = (None, None, None) if e is None else (e.value, e.low, e.high)
        record |= zip((name, f"{name}_low", f"{name}_high"), values, strict=True)
    return record | {"off": row.off, "n": model.images, "reason": row.reason}


def image_sheet(one: Negatives) -> bytes:
    """As Fig. 5 of arXiv 2312.08887: a prompt per row; of each method, without and with."""
    columns = [x for s in one.columns for x in (_small(s.baseline), _small(s.negated))]
    heads = [f"{s.label} {part}" for s in one.columns for part in ("no negative", "negative")]
    rows = [
        (f"{prompt}; negative: {concept}", torch.stack([column[i] for column in columns]))
        for i, (prompt, concept) in enumerate(one.captions)
    ]
    data = io.BytesIO()
    sheet(rows, heads, scale=max(1, SIDE // columns[0].shape[-1])).save(data, "PNG")
    return data.getvalue()


def _small(images: Tensor) -> Tensor:
    if images.shape[-1] <= SIDE:
        return images
    return F.interpolate(images.float(), (SIDE, SIDE), mode="area").round().byte()


def write(folder: Path, request: NegativesRequest, models: list[Negatives]) -> None:
    """Write ``negatives.{md,csv,json}`` and a sheet per model."""
    make_folder(folder)
    sheets = sheet_names(models)
    document = {
        "request": asdict(request),
        "environment": environment().to_json(),
        "weights": {one.model: one.weights for one in models},
    }
    write_atomic(folder / "negatives.md", markdown(models).encode())
    write_atomic(folder / "negatives.csv", csv_of(models).encode())
    write_atomic(folder / "negatives.json", (json.dumps(document, indent=2) + "\n").encode())
    for one in models:
        if one.columns:
            write_atomic(folder / sheets[one.model], image_sheet(one))
