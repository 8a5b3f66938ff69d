"""Reference sets: the 25-step DPM-Solver++ images of each model, one TOML recipe per model.

A reference set is the cell that a recipe describes; its images, embeddings and the Fréchet factor
live in the cache under the cell's content key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from sunbench.errors import UserError

#: Seeds of the floor (reference against reference) are the reference's plus this.
FLOOR_OFFSET = 1_000_000

#: Seeds of the images that other tasks start from, likewise: noise that no comparison uses.
SOURCE_OFFSET = 2_000_000


@dataclass(frozen=True)
class Recipe:
    """How a model's reference set is made. ``guidance_scale`` None means the model card's."""

    model: str
    method: str = "dpm++"
    steps: int = 25
    prompts: str = "zoo"
    negatives: str = "none"
    images: int = 1000
    seeds: tuple[int, ...] = (0,)
    guidance_scale: float | None = None


def _read(text: str, where: str) -> Recipe:
    table = tomllib.loads(text)
    known = set(Recipe.__dataclass_fields__)
    bad = sorted(set(table) - known)
    if bad or "model" not in table:
        wrong = f"unknown field {bad[0]!r}" if bad else "no field 'model'"
        raise UserError(f"reference recipe {where}: {wrong}; known: {', '.join(sorted(known))}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Recipe(**fields)


def _shipped() -> Iterator[Recipe]:
    for file in sorted(resources.files("sunbench.reference_sets").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            yield _read(file.read_text("utf-8"), file.name)


def recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by model."""
    return {r.model: r for r in _shipped()}


def recipe_for(model: str) -> Recipe:
    """The model's recipe; the paper's protocol for a model that has none of its own."""
    recipe = recipes().get(model)
    return recipe if recipe is not None else replace(_GENERIC, model=model)


_GENERIC = Recipe(model="", prompts="coco-30k", images=30_000, seeds=(0, 1, 2))
