"""What a planned run can show: the smallest difference of methods that its prompts suffice for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sunbench.bench.planner import ModelPlan, metrics_of
from sunbench.bench.request import Request
from sunbench.errors import UserError
from sunbench.metrics import PairedMetric
from sunbench.metrics.comparisons import minimum_detectable_effect
from sunbench.metrics.registry import MetricChoice, find_metric
from sunbench.paths import reference_sets
from sunbench.reference_sets import FLOOR_OFFSET
from sunbench.store import CellContent, CellStore, Results, RunFolder, budget_of


@dataclass(frozen=True)
class PromptSpread:
    """The standard deviation over prompts of the difference of two methods, and where it is from.

    new_seed: the floor's distance, where it is known.
    """

    deviation: float
    new_seed: float | None
    source: str


def add_power(plans: list[ModelPlan], request: Request, out: Path) -> None:
    """Say in each plan what its prompts suffice for; nothing where no two methods are compared."""
    for model in plans:
        choice, comparisons = distance(model, request), planned_comparisons(model, request.nfe)
        if choice is None or not comparisons:
            continue
        spread = _pilot(model, choice, out) or _floor(model, choice)
        model.power = _sentence(model, choice, comparisons, spread)


def distance(model: ModelPlan, request: Request) -> MetricChoice | None:
    """The paired metric that ranks methods: a network's distance of images, else the first."""
    paired = [find_metric(name) for name in metrics_of(model.card, request)]
    paired = [c for c in paired if isinstance(c.metric, PairedMetric)]
    images = [c for c in paired if c.metric.reads == "images" and c.metric.better == "lower"]
    return next(iter([*images, *paired]), None)


def planned_comparisons(model: ModelPlan, budgets: Sequence[int] = ()) -> int:
    """How many pairs of methods at equal steps, or within equal budgets, there will be."""
    cells = [c for c in model.cells if c.role == "candidate" and not c.skip]
    counts = Counter(budget_of(c.evaluations, budgets) if budgets else c.cell.steps for c in cells)
    return sum(n * (n - 1) // 2 for n in counts.values())


def _sentence(
    model: ModelPlan, choice: MetricChoice, comparisons: int, spread: PromptSpread | None
) -> str:
    prompts = len(model.prompts)
    if spread is None:
        return (
            f"{model.card.name}: the smallest difference that {prompts} prompts show is known"
            " after a first, smaller run into the same folder"
        )
    smallest = minimum_detectable_effect(spread.deviation, prompts, comparisons=comparisons)
    share = f", {100 * smallest / spread.new_seed:.1f} % of a new seed's" if spread.new_seed else ""
    return (
        f"{model.card.name}: the smallest difference in {choice.label} that {prompts} prompts show"
        f" between two methods is about {smallest:.2g}{share} (power 0.8,"
        f" {comparisons} comparison{'s' * (comparisons > 1)}; {spread.source})"
    )


# ------------------------------------------------------------------------------ where from


def _pilot(model: ModelPlan, choice: MetricChoice, out: Path) -> PromptSpread | None:
    """From the comparisons of the run that is already in the folder: their median."""
    try:
        results = RunFolder(out).read_results_document()
    except UserError:
        return None
    name = model.card.name
    own = [p for p in results.pairs if (p.model, p.metric) == (name, choice.label)]
    known = [(p.detectable, p.n) for p in own if p.detectable is not None]
    if not known:
        return None
    per_unit = {n: minimum_detectable_effect(1.0, n, comparisons=len(own)) for _, n in known}
    deviation = float(np.median([d / per_unit[n] for d, n in known]))
    return PromptSpread(deviation, _new_seed(results, name, choice), "from the run in this folder")


def _new_seed(results: Results, model: str, choice: MetricChoice) -> float | None:
    """The floor's distance in a finished run, for metrics that are distances."""
    rows = (r for r in results.rows if (r.model, r.metric) == (model, choice.label))
    value = next((r.value for r in rows if r.role == "floor"), None)
    return value if choice.metric.better == "lower" and value else None


def _floor(model: ModelPlan, choice: MetricChoice) -> PromptSpread | None:
    """From a cached floor of the model: its distances per prompt, as if two were independent."""
    assert isinstance(choice.metric, PairedMetric)
    for file in sorted(reference_sets().glob("*/cell.json")):
        scores = _floor_scores(file.parent, model, choice)
        if scores is not None and len(scores) > 1:
            gaps = choice.metric.as_distance(scores)
            deviation = float(2**0.5 * gaps.std(ddof=1))
            return PromptSpread(
                deviation, float(gaps.mean()) or None, "at most, from the cached floor"
            )
    return None


def _floor_scores(folder: Path, model: ModelPlan, choice: MetricChoice) -> np.ndarray | None:
    """Mean score per prompt of a floor of this model, (prompts,); None for anything else."""
    try:
        store = CellStore.open(folder, repair=False)
        about = CellContent.of(store.content, str(folder))
        if about.model != model.card.name or min(about.seeds) < FLOOR_OFFSET:
            return None
        scores = np.full(about.layout.images, np.nan)
        for k in store.shards():
            part = _stored(store, k, choice) if k < about.layout.shards else None
            if part is not None:
                scores[about.layout.shard(k)] = part
    except (UserError, ValueError):
        return None
    means = scores.reshape(-1, about.layout.seeds).mean(1)
    return means[np.isfinite(means)]


def _stored(store: CellStore, shard: int, choice: MetricChoice) -> np.ndarray | None:
    """A paired metric's scores of a shard, against whichever reference."""
    like = choice.feature_name("x" * 8, "x" * 12)
    network, key_at = choice.net is not None, len(like) - 8
    ours = (
        n
        for n in store.feature_names(shard)
        if n.startswith("paired-")
        and n[19 : key_at if network else None] == like[19 : key_at if network else None]
    )
    name = next(ours, None)
    return None if name is None else store.read_features(shard, name)
