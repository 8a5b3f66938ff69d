"""Checking everything that a finished run rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunbench.bench.handles import check_pairs
from sunbench.paths import cell_folder
from sunbench.sampling import Cell
from sunbench.store import CellStore, RunFolder, key


def _cell(content: dict[str, Any]) -> Cell:
    prompts = content["prompts"]
    return Cell(
        model=content["model"],
        weights=tuple(sorted(content["weights"].items())),
        method=content["method"],
        method_content=tuple(sorted(content["settings"].items())),
        steps=content["steps"],
        guidance_scale=content["guidance_scale"],
        task=content["task"],
        prompts=prompts["name"],
        prompts_hash=prompts["hash"],
        n_prompts=prompts["n"],
        seeds=tuple(content["seeds"]),
        resolution=content["resolution"],
        dtype=content["dtype"],
        task_content=tuple(sorted(content.get("task_settings", {}).items())),
    )


def verify_store(folder: Path, content: dict[str, Any]) -> list[str]:
    """Problems of one cell: its key, missing or broken shards."""
    if not folder.is_dir():
        return [f"{folder.name}: the cell's folder is missing"]
    store, cell = CellStore(folder, content), _cell(content)
    bad = [k for k in range(cell.shards) if not store.has_shard(k)]
    return [f"{cell.label}: shard {k} is missing or broken" for k in bad]


def _verify_pairs(mine: Path, theirs: Path, content: dict[str, Any]) -> None:
    cell = _cell(content)
    a, b = CellStore.open(mine), CellStore.open(theirs)
    for k in range(cell.shards):
        check_pairs(cell, a.read_rows(k), b.read_rows(k))


def verify_run(path: Path) -> tuple[int, list[str]]:
    """Cells checked and problems found: every checksum, key and pairing of a finished run."""
    run = RunFolder(path)
    run.read_results()
    checked, problems = 0, []
    for model in run.read_run().models:
        reference: Path | None = None
        for entry in model.all_cells:
            if entry.skip is not None:
                continue
            own = entry.role == "candidate"
            folder = cell_folder(path, entry.role, entry.key)
            wrong = key(entry.content) != entry.key
            found = [f"{entry.label}: its key is not that of its content"] if wrong else []
            found = found or verify_store(folder, entry.content)
            problems += found
            checked += 1
            reference = folder if entry.role == "reference" else reference
            if own and not found and reference is not None and reference.is_dir():
                _verify_pairs(folder, reference, entry.content)
    return checked, problems
