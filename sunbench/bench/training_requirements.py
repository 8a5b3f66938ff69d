"""What a method needs beside a model: a training, what it has cost, negative prompts or none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.store import TrainingRequirements
from sunbench.store.files import JsonObject
from sunbench.training.record import read_training

log = logging.getLogger(__name__)

#: Of a training's cost, in the order of the tables.
COST = ("parameters", "images", "seconds")


def training_of(weights: Path, method: str) -> JsonObject | None:
    """The ``training.json`` that belongs to weights: beside them under their name, or its folder's.

    None where there is none, or where it is of another method's training.
    """
    folders = [weights.parent, weights.parent.parent]
    for path in [weights.with_suffix(".json"), *(f / "training.json" for f in folders)]:
        if path.is_file():
            document = read_training(path)
            if document.get("method") == method:
                return document
    return None


def training_requirements(model: str, method: Any, pipeline: Pipeline) -> TrainingRequirements:
    """A method's needs on a model's pipeline; None for what is not known.

    training: "none", "once per base" or "once per model"; base: the model that its weights were
    trained on; document: their training.json; license: the published weights', where there is no
    such document. Methods from outside need not say any of it.
    """
    document = _document(method, pipeline)
    cost = (document or {}).get("cost", {})
    return TrainingRequirements(
        model=model,
        method=method.name,
        training=getattr(method, "training", None),
        negative_prompts=getattr(method, "negative_prompts", None),
        base=(document or {}).get("base"),
        **{name: cost.get(name) for name in COST},
        document=document,
        license=None if document else getattr(method, "license", None) or None,
    )


def _document(method: Any, pipeline: Pipeline) -> JsonObject | None:
    find = getattr(method, "trained_weights", None)
    try:
        weights = None if find is None else find(pipeline)
    except UserError:  # the cells say why
        return None
    try:
        return None if weights is None else training_of(*weights)
    except UserError as error:  # a run is not lost for a document
        log.warning("%s: %s", method.name, error)
        return None
