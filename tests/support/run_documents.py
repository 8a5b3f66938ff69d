"""Documents of a run written by hand: valid in every field, with as little in them as that takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sunbench.store import (
    CellRecord,
    EnvironmentRecord,
    ModelRecord,
    PromptSetRecord,
    Role,
    RunDocument,
    key,
)

ENVIRONMENT = EnvironmentRecord(
    "0", "3", "Linux", {"torch": "2"}, "a <tt>CPU</tt>", None, 2, 2**34, ()
)


def cell_record(role: Role, content: dict[str, Any]) -> CellRecord:
    """A cell that was sampled, under its own key."""
    label = f"{content['model']} · {content['method']} · {content['steps']} steps"
    return CellRecord(role, key(content), label, content)


def model_record(
    name: str, cells: Iterable[tuple[Role, dict[str, Any]]], **card: Any
) -> ModelRecord:
    """A model with cells of these roles and contents, the first of which names the prompts."""
    records = tuple(cell_record(role, content) for role, content in cells)
    prompts = PromptSetRecord(**records[0].content["prompts"], source="by hand")
    return ModelRecord({"name": name, **card}, {}, prompts, records)


def run_document(*models: ModelRecord, **request: Any) -> RunDocument:
    """The run.json of these models."""
    return RunDocument(request, ENVIRONMENT, models)
