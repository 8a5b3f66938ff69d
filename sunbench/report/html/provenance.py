"""Where the numbers of a page come from: machine, environment, card, weights, prompts, cells."""

from __future__ import annotations

from dataclasses import asdict

from sunbench.store import CellRecord, ModelRecord, RunDocument
from sunbench.store.files import counted


def machine(asked: RunDocument) -> str:
    """The device that latencies were measured on, in words."""
    environment = asked.environment
    if asked.device.startswith("cuda") and environment.gpus:
        return environment.gpus[0]
    return f"{environment.processor}, {counted(environment.threads, 'thread')}"


def environment_lines(asked: RunDocument) -> list[tuple[str, str]]:
    """The environment and what the run took, in lines."""
    facts = {k: v for k, v in asked.environment.to_json().items() if k != "packages"}
    lines = [(k.replace("_", " "), words(v)) for k, v in facts.items()]
    lines += [(k, str(v)) for k, v in asked.environment.packages.items()]
    lines.append(("seconds in all", f"{asked.seconds:.1f}"))
    lines += [(f"seconds: {k}", f"{v:.1f}") for k, v in asked.phases.items()]
    lines.append(("all-black images", str(asked.black_images)))
    return lines


def words(value: object) -> str:
    """A JSON value on one line."""
    if isinstance(value, list | tuple):
        return ", ".join(words(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {words(v)}" for k, v in value.items()) or "none"
    return "–" if value is None else str(value)


def model_provenance(model: ModelRecord) -> dict[str, object]:
    """Where one model's numbers come from: its card, weights, prompts and cells."""
    card = {k: words(v) for k, v in model.card.items() if v not in (None, "", [])}
    return {
        "name": model.name,
        "card": card,
        "weights": model.weights,
        "prompts": {k: words(v) for k, v in asdict(model.prompts).items()},
        "cells": [_cell(c) for c in model.cells],
    }


def _cell(entry: CellRecord) -> dict[str, str]:
    content = entry.content
    return {
        "role": entry.role,
        "label": entry.label,
        "key": entry.key,
        "guidance": words(content["guidance_scale"]),
        "seeds": words(content["seeds"]),
        "size": f"{content['resolution']} px, {content['dtype']}",
        "settings": words(content["settings"]),
        "skip": entry.skip or "",
    }
