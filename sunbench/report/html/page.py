"""The report page: one self-contained HTML file with the answer, the charts and the images.

Everything that came from outside (prompts, names, reasons) is data: the template escapes it, the
JSON block cannot end its script element, and the page's policy allows only its own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sunbench.metrics.registry import find_metric
from sunbench.report.choice import (
    Point,
    default_distance,
    distance_metrics,
    front,
    is_image_distance,
    logarithmic,
    points,
    recommend,
    signed,
)
from sunbench.report.data import RunData, floor_value, model_names, read_run, reference_time
from sunbench.report.html.gallery import Album, gather, wanted
from sunbench.report.html.provenance import environment_lines, machine, model_provenance
from sunbench.report.html.sections import section
from sunbench.report.texts import ARROWS
from sunbench.store import ResultRow, RunDocument, RunFolder, write_atomic

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_page(run: RunFolder) -> Path:
    """Write ``report.html`` of a finished run and return its path."""
    data, asked = read_run(run), run.read_run()
    wants = [
        wanted(run.path, m, i, _shown_distance(data.rows, m.name))
        for i, m in enumerate(asked.models)
    ]
    album, parts = gather([w for w in wants if w is not None])
    remaining = iter(parts)
    galleries = {
        m.name: None if w is None else next(remaining)
        for m, w in zip(asked.models, wants, strict=True)
    }
    path = run.path / "report.html"
    write_atomic(path, render_page(data, asked, galleries, album).encode())
    return path


def _shown_distance(rows: Sequence[ResultRow], model: str) -> str | None:
    """The paired distance of images that sorts a gallery: LPIPS or its like."""
    mine = [r for r in rows if r.model == model and r.value is not None]
    return next((n for n in distance_metrics(mine) if is_image_distance(n)), None)


# ------------------------------------------------------------------------------ the file


def json_text(value: Any) -> Markup:
    """JSON that can stand in a script element: nothing in it reads as markup."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for mark, code in _UNSAFE.items():
        text = text.replace(mark, code)
    return Markup(text)  # escaped above


def _asset(name: str) -> str:
    file = resources.files("sunbench.report.html").joinpath(name)
    return file.read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A source of the page's content policy: just this script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render_page(
    data: RunData, asked: RunDocument, galleries: Mapping[str, object], album: Album
) -> str:
    """The page as text."""
    names = model_names(data.rows)
    style, script = _asset("page.css"), _asset("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_asset("page.html"))
    page_data = {
        "models": [_model_data(data, n, galleries.get(n)) for n in names],
        "images": album.images,
    }
    return template.render(
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        data=json_text(page_data),
        title=", ".join(names),
        sections=[section(data, n) for n in names],
        facts=environment_lines(asked),
        machine=machine(asked),
        side=album.side,
        protocols=_protocols(data.rows),
        provenance=[model_provenance(m) for m in asked.models],
        request=asked.request,
    )


def _protocols(rows: Sequence[ResultRow]) -> list[tuple[str, str, str, str]]:
    """(metric, direction, what it says, how it was measured), each once."""
    pairs = dict.fromkeys((r.metric, r.protocol) for r in rows if r.protocol)
    return [
        (m, ARROWS[find_metric(m).metric.better], find_metric(m).metric.summary, protocol)
        for m, protocol in pairs
    ]


# ------------------------------------------------------------------------------ chart data


def _model_data(data: RunData, model: str, gallery: object) -> dict[str, object]:
    mine = [r for r in data.rows if r.model == model]
    reference, metric = reference_time(data.times, model), default_distance(mine)
    best = recommend(points(mine, data.times, model, metric)) if metric else None
    return {
        "name": model,
        "reference": None if reference is None else reference.latency_ms,
        "metric": metric,
        "paired": _shown_distance(data.rows, model),
        "recommended": None if best is None else [best.point.row.method, best.point.row.steps],
        "metrics": [_metric_data(data, model, n) for n in distance_metrics(mine)],
        "gallery": gallery,
    }


def _metric_data(data: RunData, model: str, metric: str) -> dict[str, object]:
    candidates = points(data.rows, data.times, model, metric)
    best, floor = front(candidates), floor_value(data.rows, model, metric)
    chosen = recommend(candidates)
    return {
        "name": metric,
        "better": find_metric(metric).metric.better,
        "summary": find_metric(metric).metric.summary,
        "limit": None if chosen is None else _limit(chosen.point),
        "floor": floor,
        "logarithmic": logarithmic(candidates, floor),
        "points": [
            {
                "method": p.row.method,
                "steps": p.row.steps,
                "nfe": p.row.nfe,
                "ms": p.latency_ms,
                "speed_up": None if p.gain is None else p.gain.end_to_end,
                "doubt": "" if p.gain is None else p.gain.flag,
                "value": p.row.value,
                "low": p.row.low,
                "high": p.row.high,
                "relative": p.row.relative,
                "front": p in best,
            }
            for p in candidates
        ],
    }


def _limit(p: Point) -> float:
    """A distance that the point's whole interval is within, a little beyond its far end."""
    return signed(p.row.metric, p.worst + 1e-3 * abs(p.worst))
