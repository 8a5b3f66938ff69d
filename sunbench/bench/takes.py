"""What a method takes beside a model: a training, what it has cost, negative prompts or none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.store.files import parse_json

log = logging.getLogger(__name__)

#: Of a training's cost, in the order of the tables.
COST = ("parameters", "images", "seconds")


def training_of(weights: Path, method: str) -> dict[str, Any] | None:
    """The ``training.json`` that belongs to weights: beside them under their name, or its folder's.

    None where there is none, or where it is of another method's training.
    """
    folders = [weights.parent, weights.parent.parent]
    for path in [weights.with_suffix(".json"), *(f / "training.json" for f in folders)]:
        if path.is_file():
            found: dict[str, Any] = parse_json(path.read_bytes(), str(path))
            if found.get("method") == method:
                return found
    return None


def takes(method: Any, pipeline: Any) -> dict[str, Any]:
    """A method's needs on a pipeline, JSON-able; None for what is not known.

    training: "none", "once a base" or "once a model"; base: the model that its weights were trained
    on; document: their training.json. Methods from outside need not say any of it.
    """
    find = getattr(method, "trained_weights", None)
    try:
        found = None if find is None else find(pipeline)
        document = None if found is None else training_of(*found)
    except UserError as error:  # of weights the cells say why; a run is not lost for a document
        log.info("%s: %s", method.name, error)
        document = None
    cost = (document or {}).get("cost", {})
    return {
        "method": method.name,
        "training": getattr(method, "training", None),
        "negative_prompts": getattr(method, "negative_prompts", None),
        "base": (document or {}).get("base"),
        **{name: cost.get(name) for name in COST},
        "document": document,
    }
