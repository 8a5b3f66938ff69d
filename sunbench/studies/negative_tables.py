"""The tables, the sheet and the data of a measurement of negative prompts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sunbench.bench.environment import environment
from sunbench.metrics import Estimate
from sunbench.report.formats import markdown_table
from sunbench.report.tables import number
from sunbench.store import write_atomic
from sunbench.studies.negative_data import NegativeRow, Negatives, NegativesRequest
from sunbench.studies.negative_prompts import CLIP
from sunbench.studies.zoo_quality import sheet

SIDE = 128  # pixels of a picture on the sheet
HEAD = [
    "method",
    "steps",
    "NFE",
    "without",
    "with it",
    "fall",
    "fall, absent concept",
    "share of the reference's fall",
]
EXPLANATION = """\
Every picture is drawn three times from one noise: without a negative prompt, with one that names
a concept of the picture, and with one that names another of its sort which the picture does not
show. *Fall* is how much the concept's score drops under its name, the mean of the paired
differences; the fall under the absent concept's name is what any negative does. Intervals: 95 %,
bootstrap over prompts. The first line is the reference, 25-step DPM-Solver++ under classifier-free
guidance. CLIP score is 100 x cosine of the picture and the concept's words.
"""


def _interval(e: Estimate | None) -> str:
    if e is None:
        return "–"
    return f"{_signed(e.value)} [{_signed(e.low)}, {_signed(e.high)}]"


def _signed(x: float) -> str:
    return f"{x:.2f}" if abs(x) >= 10 else f"{x:.3f}"


def _line(row: NegativeRow) -> list[str]:
    head = [row.method, str(row.steps)]
    if row.without is None or row.named is None or row.nfe is None:
        return [*head, "–", "–", "–", str(row.reason), "–", "–"]
    means = [number(row.without), number(row.named)]
    falls = [_interval(e) for e in (row.fall, row.absent, row.kept)]
    return [*head, f"{row.nfe:.0f}", *means, *falls]


def markdown(found: Iterable[Negatives]) -> str:
    """The page: a table a model, sort of concept and measure."""
    parts = ["# Negative prompts", EXPLANATION]
    for one in found:
        parts.append(f"## {one.model}\n\n{one.images} pictures a column, prompts {one.prompts}.")
        for kind, measure in dict.fromkeys((r.kind, r.measure) for r in one.rows):
            rows = [r for r in one.rows if (r.kind, r.measure) == (kind, measure)]
            what = measure if measure == CLIP else f"{measure}, share of pictures"
            parts.append(f"### {kind}: {what}\n\n" + markdown_table(HEAD, [_line(r) for r in rows]))
        parts.append(f"![{one.model}]({sheet_name(one)})")
    return "\n\n".join(parts) + "\n"


def sheet_name(one: Negatives) -> str:
    """The file of a model's sheet."""
    return f"negatives-{''.join(c if c.isalnum() or c in '.-' else '-' for c in one.model)}.png"


_ESTIMATES = ("fall", "absent", "kept")


def csv_text(found: Iterable[Negatives]) -> str:
    """Every row, full precision; intervals as name, name_low, name_high."""
    plain = ["model", "method", "steps", "kind", "measure", "nfe", "without", "named"]
    spread = [f"{e}{part}" for e in _ESTIMATES for part in ("", "_low", "_high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plain, *spread, "n", "reason"])
    for one in found:
        for row in one.rows:
            values = [getattr(row, name) for name in plain]
            for name in _ESTIMATES:
                e = getattr(row, name)
                values += ["", "", ""] if e is None else [e.value, e.low, e.high]
            writer.writerow([*values, one.images, row.reason or ""])
    return out.getvalue()


def picture_sheet(one: Negatives) -> bytes:
    """As Fig. 5 of arXiv 2312.08887: a prompt a row; of each method, without and with."""
    columns = [x for s in one.shown for x in (_small(s.without), _small(s.named))]
    heads = [f"{s.label} {part}" for s in one.shown for part in ("no negative", "negative")]
    rows = [
        (f"{prompt}; negative: {concept}", torch.stack([column[i] for column in columns]))
        for i, (prompt, concept) in enumerate(one.captions)
    ]
    data = io.BytesIO()
    sheet(rows, heads, scale=max(1, SIDE // columns[0].shape[-1])).save(data, "PNG")
    return data.getvalue()


def _small(pictures: Tensor) -> Tensor:
    if pictures.shape[-1] <= SIDE:
        return pictures
    return F.interpolate(pictures.float(), (SIDE, SIDE), mode="area").round().byte()


def write(folder: Path, request: NegativesRequest, found: list[Negatives]) -> None:
    """Write ``negatives.{md,csv,json}`` and a sheet a model."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "request": asdict(request),
        "environment": environment(),
        "weights": {one.model: one.weights for one in found},
    }
    write_atomic(folder / "negatives.md", markdown(found).encode())
    write_atomic(folder / "negatives.csv", csv_text(found).encode())
    write_atomic(folder / "negatives.json", (json.dumps(document, indent=2) + "\n").encode())
    for one in found:
        if one.shown:
            write_atomic(folder / sheet_name(one), picture_sheet(one))
