"""The report page: one self-contained HTML file with the answer, the charts and the pictures.

Everything that came from outside (prompts, names, reasons) is data: the template escapes it, the
JSON block cannot end its script element, and the page's policy allows only its own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sunbench.metrics.registry import find
from sunbench.report.answer import allowed, model_answer
from sunbench.report.choice import (
    default_distance,
    distances,
    front,
    is_image_distance,
    logarithmic,
    points,
    reference_ms,
)
from sunbench.report.html.gallery import Album, gather, wanted
from sunbench.report.tables import (
    ARROWS,
    floor_value,
    headline,
    models,
    pair_table,
    takes_table,
    time_table,
)
from sunbench.store import ResultRow, RunFolder, write_atomic
from sunbench.store.runs import result_rows

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_page(run: RunFolder) -> Path:
    """Write ``report.html`` of a finished run and return its path."""
    run.require_finished()
    results, asked = run.read_results_document(), run.read_run()
    rows = result_rows(results, str(run.results_file))
    wants = [
        wanted(run.path, m, i, _shown_distance(rows, m["card"]["name"]))
        for i, m in enumerate(asked["models"])
    ]
    album, found = gather([w for w in wants if w is not None])
    remaining = iter(found)
    galleries = {
        m["card"]["name"]: None if w is None else next(remaining)
        for m, w in zip(asked["models"], wants, strict=True)
    }
    path = run.path / "report.html"
    write_atomic(path, render(rows, results, asked, galleries, album).encode())
    return path


def _shown_distance(rows: Sequence[ResultRow], model: str) -> str | None:
    """The paired distance of images that sorts a gallery: LPIPS or its like."""
    mine = [r for r in rows if r.model == model and r.value is not None]
    return next((n for n in distances(mine) if is_image_distance(n)), None)


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


def render(
    rows: Sequence[ResultRow],
    results: dict[str, Any],
    asked: dict[str, Any],
    galleries: dict[str, Any],
    album: Album,
) -> str:
    """The page as text."""
    times, pairs = results.get("times", []), results.get("pairs", [])
    names = models(rows)
    style, script = _asset("page.css"), _asset("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_asset("page.html"))
    data = {
        "models": [_model_data(list(rows), times, n, galleries.get(n)) for n in names],
        "pictures": album.pictures,
    }
    return template.render(
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        data=json_text(data),
        title=", ".join(names),
        sections=[
            {**_section(list(rows), times, pairs, n), "takes": _takes(results, n)} for n in names
        ],
        distances=distances(rows),
        facts=_facts(asked),
        machine=_machine(asked),
        side=album.side,
        protocols=_protocols(rows),
        provenance=[_provenance(m) for m in asked["models"]],
        request=asked["request"],
    )


# ------------------------------------------------------------------------------ parts


def _model_data(
    rows: list[ResultRow], times: list[dict[str, Any]], model: str, gallery: Any
) -> dict[str, Any]:
    mine = [r for r in rows if r.model == model]
    return {
        "name": model,
        "reference": reference_ms(times, model),
        "metric": default_distance(mine),
        "metrics": [_metric_data(mine, times, model, n) for n in distances(mine)],
        "gallery": gallery,
    }


def _metric_data(
    rows: list[ResultRow], times: list[dict[str, Any]], model: str, metric: str
) -> dict[str, Any]:
    given = points(rows, times, model, metric)
    best = front(given)
    floor = floor_value(rows, model, metric)
    return {
        "name": metric,
        "better": find(metric).metric.better,
        "summary": find(metric).metric.summary,
        "limit": allowed(given),
        "floor": floor,
        "logarithmic": logarithmic(given, floor),
        "points": [
            {
                "method": p.row.method,
                "steps": p.row.steps,
                "nfe": p.row.nfe,
                "ms": p.latency_ms,
                "value": p.row.value,
                "low": p.row.low,
                "high": p.row.high,
                "reason": p.row.reason,
                "front": p in best,
            }
            for p in given
        ],
    }


def _section(
    rows: list[ResultRow], times: list[dict[str, Any]], pairs: list[dict[str, Any]], model: str
) -> dict[str, Any]:
    own = [t for t in times if t["model"] == model]
    mine = [r for r in rows if r.model == model]
    closer = [p for p in pairs if p["model"] == model]
    return {
        "name": model,
        "answer": model_answer(rows, times, pairs, model),
        "n": mine[0].n,
        "prompts": mine[0].prompts,
        "task": mine[0].task,
        "head": headline(rows, model),
        "times": time_table(own) if own else None,
        "pairs": [(n, _pairs_of(closer, n)) for n in dict.fromkeys(p["metric"] for p in closer)],
    }


def _takes(results: dict[str, Any], model: str) -> tuple[list[str], list[list[str]]] | None:
    """The table of what methods take; None for a run that was made before it was noted."""
    own = [t for t in results.get("takes", []) if t["model"] == model]
    return takes_table(own) if own else None


def _pairs_of(pairs: list[dict[str, Any]], metric: str) -> tuple[list[str], list[list[str]]]:
    """The table of shares by one metric, which its caption names."""
    head, lines = pair_table([p for p in pairs if p["metric"] == metric])
    return head[1:], [line[1:] for line in lines]


def _protocols(rows: Sequence[ResultRow]) -> list[tuple[str, str, str, str]]:
    """(metric, direction, what it says, how it was measured), each once."""
    found = dict.fromkeys((r.metric, r.protocol) for r in rows if r.protocol)
    return [
        (m, ARROWS[find(m).metric.better], find(m).metric.summary, protocol)
        for m, protocol in found
    ]


def _machine(asked: dict[str, Any]) -> str:
    """The device that times were measured on, in words."""
    found = asked.get("environment", {})
    device = asked["request"].get("device", "cpu")
    if device.startswith("cuda") and found.get("gpus"):
        return str(found["gpus"][0])
    return f"{found.get('processor', 'unknown processor')}, {found.get('threads', '?')} threads"


def _facts(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """The environment and what the run took, in lines."""
    found = dict(asked.get("environment", {}))
    packages = found.pop("packages", {})
    lines = [(k.replace("_", " "), _plain(v)) for k, v in found.items()]
    lines += [(k, str(v)) for k, v in packages.items()]
    lines.append(("seconds in all", f"{asked.get('seconds', 0):.1f}"))
    lines += [(f"seconds: {k}", f"{v:.1f}") for k, v in asked.get("phases", {}).items()]
    lines.append(("all-black pictures", str(asked.get("black_images", 0))))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "none"
    return "–" if value is None else str(value)


def _provenance(model: dict[str, Any]) -> dict[str, Any]:
    """Where one model's numbers come from: its card, weights, prompts and cells."""
    card = {k: _plain(v) for k, v in model["card"].items() if v not in (None, "", [])}
    return {
        "name": model["card"]["name"],
        "card": card,
        "weights": model.get("weights", {}),
        "prompts": {k: _plain(v) for k, v in model.get("prompts", {}).items()},
        "cells": [_cell(c) for c in model["cells"]],
    }


def _cell(entry: dict[str, Any]) -> dict[str, str]:
    content = entry["content"]
    settings = content["settings"]
    return {
        "role": entry["role"],
        "label": entry["label"],
        "key": entry["key"],
        "guidance": _plain(content["guidance_scale"]),
        "seeds": _plain(content["seeds"]),
        "size": f"{content['resolution']} px, {content['dtype']}",
        "settings": _plain(settings),
        "skip": entry["skip"] or "",
    }
