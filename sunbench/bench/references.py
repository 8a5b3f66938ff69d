"""Reference sets as things of their own: build, list, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunbench.bench.outcome import Outcome
from sunbench.bench.progress import Progress
from sunbench.bench.request import Request
from sunbench.bench.run import execute
from sunbench.bench.verify import verify_store
from sunbench.errors import unknown
from sunbench.models import find_model
from sunbench.paths import cache_root, reference_sets
from sunbench.reference_sets import FLOOR_OFFSET, SOURCE_OFFSET, recipe_for
from sunbench.store import CellStore
from sunbench.store.names import file_stem


def request_for(model: str, **overrides: Any) -> Request:
    """The request that makes a model's reference set and nothing else."""
    recipe = recipe_for(find_model(model).name)
    settings: dict[str, Any] = {
        "models": (model,),
        "methods": (recipe.method,),
        "steps": (recipe.steps,),
        "images": recipe.images,
        "seeds": recipe.seeds,
        "prompts": recipe.prompts,
        "negatives": recipe.negatives,
        "guidance_scale": recipe.guidance_scale,
        "floor": False,
        "timing": "none",
    }
    return Request(**{**settings, **{k: v for k, v in overrides.items() if v is not None}})


def build_reference(model: str, watcher: Progress | None = None, **overrides: Any) -> Outcome:
    """Make a model's reference set in the cache, or find it there."""
    request = request_for(model, **overrides)
    folder = cache_root() / "reference_runs" / file_stem(find_model(model).name)
    return execute(request, folder, watcher, only="reference")


def _stores() -> list[CellStore]:
    return [CellStore.open(p.parent) for p in sorted(reference_sets().glob("*/cell.json"))]


def _role(seed: int, task: str) -> str:
    """What a cached cell is, by its first seed and its task."""
    if seed >= SOURCE_OFFSET:
        return "sources of tasks"
    role = "floor" if seed >= FLOOR_OFFSET else "reference"
    return role if task == "text2image" else f"{role}, {task}"


def listing() -> list[dict[str, object]]:
    """What is in the cache: model, steps, images, shards, key and whether it is a floor."""
    out = []
    for store in _stores():
        c = store.content
        out.append(
            {
                "key": store.key,
                "model": c["model"],
                "method": c["method"],
                "steps": c["steps"],
                "guidance_scale": c["guidance_scale"],
                "prompts": c["prompts"]["name"],
                "images": c["prompts"]["n"] * len(c["seeds"]),
                "role": _role(min(c["seeds"]), c["task"]),
                "shards": len(store.shards()),
            }
        )
    return out


def verify(models: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Check every shard of the cached sets (of these models): sets checked and problems."""
    problems: list[str] = []
    stores = _stores()
    held = {s.content["model"] for s in stores}
    for name in models:
        if name not in held:
            raise unknown("model with a cached set", name, sorted(held))
    chosen = [s for s in stores if not models or s.content["model"] in models]
    for store in chosen:
        problems += verify_store(Path(store.folder), store.content)
    return len(chosen), problems
