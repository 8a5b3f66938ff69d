"""From the cells of a run to its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.handles import CellHandle
from sunbench.bench.planner import ModelPlan
from sunbench.bench.reduce import Reducer, result_row
from sunbench.bench.takes import takes
from sunbench.store import FiniteNRow, PairRow, ResultRow, SetPairRow, TrainingRequirements
from sunbench.store.timings import TimingRow


@dataclass
class Outcome:
    """The numbers of a run, images that are all black, and shards that had to be made."""

    rows: list[ResultRow] = field(default_factory=list)
    pairs: list[PairRow] = field(default_factory=list)
    set_pairs: list[SetPairRow] = field(default_factory=list)
    finite_n: list[FiniteNRow] = field(default_factory=list)
    times: list[TimingRow] = field(default_factory=list)
    requirements: list[TrainingRequirements] = field(default_factory=list)
    black: int = 0
    new_shards: int = 0


def evaluate(
    model: ModelPlan,
    handles: Mapping[tuple[str, str], CellHandle],
    extractors: FeatureExtractors,
    outcome: Outcome,
) -> None:
    """Add one model's numbers: its cells' metrics against its reference, and win rates.

    handles: by role and key of the cell; a planned cell without one says why in its rows.
    """
    first = handles[model.cells[0].place]
    floor = next((h for h in handles.values() if h.planned.role == "floor"), None)
    reducer = Reducer(extractors, first, [p.text for p in model.prompts.rows], floor)
    for planned in model.cells:
        if planned.skip is None:
            handle = handles[planned.place]
            outcome.rows += reducer.rows(handle)
            outcome.black += _black(handle)
        else:
            outcome.rows += [
                result_row(planned, c, None, planned.skip, None, "") for c in extractors.choices
            ]
    candidates = [h for h in handles.values() if h.planned.role == "candidate"]
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
        outcome.requirements.append(takes(model.card.name, method, model.loaded.pipeline))


def _black(handle: CellHandle) -> int:
    return sum(r.black for k in range(handle.cell.shards) for r in handle.store.read_rows(k))
