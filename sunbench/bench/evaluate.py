"""From the cells of a run to its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.outcome import Outcome
from sunbench.bench.planner import ModelPlan
from sunbench.bench.reduce import Reducer, StoredCell, result_row
from sunbench.bench.training_requirements import training_requirements
from sunbench.sampling import Cell
from sunbench.store import Role


class ListedCell(Protocol):
    """A cell of a run, sampled or not: skip says why not."""

    @property
    def role(self) -> Role:
        """Its part in the run."""
        ...

    @property
    def cell(self) -> Cell:
        """What it is."""
        ...

    @property
    def key(self) -> str:
        """The key of its content."""
        ...

    @property
    def skip(self) -> str | None:
        """Why it could not be sampled."""
        ...


def evaluate(
    cells: Sequence[ListedCell],
    handles: Mapping[tuple[str, str], StoredCell],
    prompts: Sequence[str],
    extractors: FeatureExtractors,
    outcome: Outcome,
    budgets: Sequence[int] = (),
) -> None:
    """Add one model's numbers: its cells' metrics against its reference, and win rates.

    cells: the reference first. handles: by role and key; a cell without one says why in its rows.
    prompts: their texts. budgets: of evaluations, at which methods are compared instead of at equal
    steps.
    """
    first = handles[cells[0].role, cells[0].key]
    floor = next((h for h in handles.values() if h.role == "floor"), None)
    reducer = Reducer(extractors, first, list(prompts), floor, tuple(budgets))
    for listed in cells:
        if listed.skip is None:
            handle = handles[listed.role, listed.key]
            outcome.rows += reducer.rows(handle)
            outcome.black += _black(handle)
        else:
            place = (listed.role, listed.cell, listed.key)
            outcome.rows += [
                result_row(place, c, None, listed.skip, None, "") for c in extractors.choices
            ]
    candidates = [h for h in handles.values() if h.role == "candidate"]
    compared = candidates if floor is None else [floor, *candidates]
    for choice in extractors.choices:
        if choice.label not in extractors.reasons:
            outcome.pairs += reducer.pairs(candidates, choice)
            outcome.set_pairs += reducer.set_pairs(candidates, choice)
            outcome.finite_n += reducer.finite_n(compared, choice)


def add_requirements(model: ModelPlan, outcome: Outcome) -> None:
    """Add what each method of a loaded model needed beside it: a training, its cost."""
    assert model.loaded is not None
    methods = {c.method.name: c.method for c in model.cells if c.role == "candidate"}
    for method in methods.values():
        outcome.requirements.append(
            training_requirements(model.card.name, method, model.loaded.pipeline)
        )


def _black(handle: StoredCell) -> int:
    return sum(r.black for k in range(handle.cell.shards) for r in handle.store.read_rows(k))
