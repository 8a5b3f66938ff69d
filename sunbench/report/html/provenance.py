"""Where the numbers of a page come from: machine, environment, card, weights, prompts, cells."""

from __future__ import annotations

from typing import Any


def machine(asked: dict[str, Any]) -> str:
    """The device that latencies were measured on, in words."""
    environment = asked.get("environment", {})
    device = asked["request"].get("device", "cpu")
    if device.startswith("cuda") and environment.get("gpus"):
        return str(environment["gpus"][0])
    processor = environment.get("processor", "unknown processor")
    return f"{processor}, {environment.get('threads', '?')} threads"


def environment_lines(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """The environment and what the run took, in lines."""
    environment = dict(asked.get("environment", {}))
    packages = environment.pop("packages", {})
    lines = [(k.replace("_", " "), words(v)) for k, v in environment.items()]
    lines += [(k, str(v)) for k, v in packages.items()]
    lines.append(("seconds in all", f"{asked.get('seconds', 0):.1f}"))
    lines += [(f"seconds: {k}", f"{v:.1f}") for k, v in asked.get("phases", {}).items()]
    lines.append(("all-black images", str(asked.get("black_images", 0))))
    return lines


def words(value: Any) -> str:
    """A JSON value on one line."""
    if isinstance(value, list):
        return ", ".join(words(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {words(v)}" for k, v in value.items()) or "none"
    return "–" if value is None else str(value)


def model_provenance(model: dict[str, Any]) -> dict[str, Any]:
    """Where one model's numbers come from: its card, weights, prompts and cells."""
    card = {k: words(v) for k, v in model["card"].items() if v not in (None, "", [])}
    return {
        "name": model["card"]["name"],
        "card": card,
        "weights": model.get("weights", {}),
        "prompts": {k: words(v) for k, v in model.get("prompts", {}).items()},
        "cells": [_cell(c) for c in model["cells"]],
    }


def _cell(entry: dict[str, Any]) -> dict[str, str]:
    content = entry["content"]
    return {
        "role": entry["role"],
        "label": entry["label"],
        "key": entry["key"],
        "guidance": words(content["guidance_scale"]),
        "seeds": words(content["seeds"]),
        "size": f"{content['resolution']} px, {content['dtype']}",
        "settings": words(content["settings"]),
        "skip": entry["skip"] or "",
    }
