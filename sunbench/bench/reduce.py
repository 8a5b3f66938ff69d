"""From stored features to numbers: statistics in float64, in shard order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.metrics import CellFeatures, Estimate, PairedMetric, PerImageMetric, SetMetric
from sunbench.metrics.blocks import Rows, whole
from sunbench.metrics.comparisons import (
    EQUIVALENCE_SHARE,
    Difference,
    compared,
    minimum_detectable_effect,
    paired_difference,
    resampled_difference,
)
from sunbench.metrics.estimate import Floats, closer_share
from sunbench.metrics.finite_n import FiniteN, order_changes
from sunbench.metrics.metric import Measured
from sunbench.metrics.networks import ClipExtractor
from sunbench.metrics.registry import MetricChoice
from sunbench.sampling import Cell
from sunbench.store import (
    CellStore,
    FiniteNRow,
    PairRow,
    ResultRow,
    Role,
    SetPairRow,
    StoredFeature,
    budget_of,
)
from sunbench.store.shared import settings_key

#: A feature up to this size is held in memory: every draw of an interval passes over it again.
HELD_BYTES = 2**26


class StoredCell(Protocol):
    """A cell of a run whose shards are whole."""

    @property
    def role(self) -> Role:
        """Its part in the run."""
        ...

    @property
    def cell(self) -> Cell:
        """What it is."""
        ...

    @property
    def store(self) -> CellStore:
        """Its shards."""
        ...


def cell_features(stored: StoredCell, feature: str) -> np.ndarray:
    """A feature of all images of a cell, in order."""
    return whole(stored_feature(stored, feature))


def stored_feature(stored: StoredCell, feature: str) -> Rows:
    """The same; what is too large to hold is read from the shards each time it is needed."""
    rows = StoredFeature(stored.store, stored.cell.layout, feature)
    return whole(rows) if rows.nbytes <= HELD_BYTES else rows


def clusters(cell: Cell) -> np.ndarray:
    """Prompt number of each image: what the bootstrap resamples."""
    return np.arange(cell.images) // len(cell.seeds)


@dataclass
class Reducer:
    """Computes one model's metrics against its reference; each number is computed once.

    budgets: of evaluations, at which methods are compared; without one it is at equal steps.
    """

    extractors: FeatureExtractors
    reference: StoredCell
    prompts: list[str]
    floor: StoredCell | None = None
    budgets: tuple[int, ...] = ()
    _texts: dict[str, np.ndarray] = field(default_factory=dict)
    _nfe: dict[str, float] = field(default_factory=dict)
    _measured: dict[tuple[str, str], Measured] = field(default_factory=dict)
    _halves: dict[tuple[str, str], FiniteN | None] = field(default_factory=dict)
    _scores: dict[tuple[str, str], Floats] = field(default_factory=dict)

    def rows(self, stored: StoredCell) -> list[ResultRow]:
        """Result rows of one cell, one per metric; the reference gets what needs no pair."""
        return [
            self._row(stored, choice)
            for choice in self.extractors.choices
            if stored.role != "reference" or choice.metric.compares not in ("sets", "pairs")
        ]

    def _row(self, stored: StoredCell, choice: MetricChoice) -> ResultRow:
        nfe, place = self.nfe(stored), (stored.role, stored.cell, stored.store.key)
        reason = self.extractors.reasons.get(choice.label)
        if reason is not None:
            return result_row(place, choice, None, reason, nfe, "")
        protocol, value = self._protocol(choice), self.measured(stored, choice)
        relative = None
        if self.floor is not None and stored.role == "candidate":
            relative = value.relative(self.measured(self.floor, choice))
        estimate = value.value.estimate()
        row = result_row(place, choice, estimate, None, nfe, protocol, relative)
        return replace(row, feature_key=self.extractors.feature_key(choice)[:8])

    @property
    def _reference_key(self) -> str:
        """By which paired scores are named: the reference's settings."""
        return settings_key(self.reference.store.content)

    def _protocol(self, choice: MetricChoice) -> str:
        network = self.extractors.network(choice)
        return choice.metric.protocol + (f"; {network.protocol}" if network is not None else "")

    # ------------------------------------------------------------------------- metrics

    def features(self, stored: StoredCell, choice: MetricChoice) -> CellFeatures:
        """What a metric reads of one cell."""
        metric, name = choice.metric, self.extractors.feature(choice, self._reference_key)
        groups = clusters(stored.cell)
        other = metric.compares in ("sets", "pairs") and metric.reads == "embeddings"
        return CellFeatures(
            stored_feature(stored, name),
            groups,
            stored_feature(self.reference, name) if other else None,
            self._text(str(choice.net))[groups] if metric.compares == "text" else None,
            self.extractors.network(choice),
        )

    def measured(self, stored: StoredCell, choice: MetricChoice) -> Measured:
        """One metric of one cell."""
        place = (stored.store.key, choice.label)
        if place not in self._measured:
            self._measured[place] = choice.metric.measured(self.features(stored, choice))
        return self._measured[place]

    def scores(self, stored: StoredCell, choice: MetricChoice) -> Floats:
        """The metric of every image of a cell, for metrics that have one."""
        assert isinstance(choice.metric, PerImageMetric)
        place = (stored.store.key, choice.label)
        if place not in self._scores:
            self._scores[place] = choice.metric.finite_scores(self.features(stored, choice))
        return self._scores[place]

    def _text(self, net: str) -> np.ndarray:
        if net not in self._texts:
            network = self.extractors.networks[net]
            assert isinstance(network, ClipExtractor)
            self._texts[net] = network.embed_text(self.prompts).cpu().numpy()
        return self._texts[net]

    # ------------------------------------------------------------------------- comparisons

    def nfe(self, stored: StoredCell) -> float:
        """U-Net evaluations per image: the mean over images to two decimals."""
        key = stored.store.key
        if key not in self._nfe:
            counts = cell_features(stored, "cost")[:, 0]
            self._nfe[key] = round(float(np.mean(counts, dtype=np.float64)), 2)
        return self._nfe[key]

    def _at_equal_work(
        self, candidates: list[StoredCell]
    ) -> Iterator[tuple[StoredCell, StoredCell]]:
        """Every two methods at equal steps, or within one budget of evaluations as counted.

        Once, in the order of their names; what takes more than every budget is not compared.
        """
        budgets = self.budgets
        work = [budget_of(self.nfe(c), budgets) if budgets else c.cell.steps for c in candidates]
        for a, of_a in zip(candidates, work, strict=True):
            for b, of_b in zip(candidates, work, strict=True):
                if of_a is not None and of_a == of_b and a.cell.method < b.cell.method:
                    yield a, b

    def pairs(self, candidates: list[StoredCell], choice: MetricChoice) -> list[PairRow]:
        """Every two methods at equal work on a paired metric: win rate and difference."""
        metric, two = choice.metric, list(self._at_equal_work(candidates))
        if not isinstance(metric, PairedMetric):
            return []
        differences = [self._difference(a, b, choice, metric) for a, b in two]
        margins = [self._margin(choice)] * len(two)
        return [
            PairRow(**self._closer(a, b, choice), **asdict(c), detectable=detectable(d, len(two)))
            for (a, b), d, c in zip(two, differences, compared(differences, margins), strict=True)
        ]

    def _difference(
        self, a: StoredCell, b: StoredCell, choice: MetricChoice, metric: PairedMetric
    ) -> Difference:
        x, y = (metric.as_distance(self.scores(m, choice)) for m in (a, b))
        return paired_difference(x, y, clusters(a.cell))

    def _margin(self, choice: MetricChoice) -> float | None:
        """Differences below this are none: a share of the floor's distance."""
        if self.floor is None:
            return None
        distance = self.measured(self.floor, choice).distance
        if distance is None or distance.value <= 0:
            return None
        return EQUIVALENCE_SHARE * distance.value

    def _closer(self, a: StoredCell, b: StoredCell, choice: MetricChoice) -> dict[str, Any]:
        sign = 1 if choice.metric.better == "lower" else -1
        x, y = (sign * self.scores(m, choice) for m in (a, b))
        e = closer_share(x, y, clusters(a.cell))
        share = {"a_closer": e.value, "low": e.low, "high": e.high, "n": e.n}
        return self._names(a, b, choice) | share

    def _names(self, a: StoredCell, b: StoredCell, choice: MetricChoice) -> dict[str, Any]:
        where = {"model": a.cell.model, "steps": a.cell.steps, "metric": choice.label}
        if self.budgets:
            where["nfe"] = budget_of(self.nfe(a), self.budgets)
        if b.cell.steps != a.cell.steps:
            where["steps_b"] = b.cell.steps
        return where | {"a": a.cell.method, "b": b.cell.method}

    def set_pairs(self, candidates: list[StoredCell], choice: MetricChoice) -> list[SetPairRow]:
        """Every two methods at equal work on a distance of sets: difference, and its order.

        order_holds: A and B stand in one order at N, at N / 2 and at infinity.
        """
        two = list(self._at_equal_work(candidates))
        values = [(self.measured(a, choice), self.measured(b, choice)) for a, b in two]
        shown = [
            (p, v, w)
            for p, (v, w) in zip(two, values, strict=True)
            if v.distance and len(v.value.draws) > 1
        ]
        if not isinstance(choice.metric, SetMetric) or not shown:
            return []
        differences = [resampled_difference(v.value, w.value) for _, v, w in shown]
        margins = [self._margin(choice)] * len(shown)
        out = []
        for ((a, b), _, _), c in zip(shown, compared(differences, margins), strict=True):
            held = {m.cell.method: self._finite_n(m, choice) for m in (a, b)}
            known = {name: value for name, value in held.items() if value is not None}
            holds = not order_changes(known) if len(known) == 2 else None
            out.append(SetPairRow(**self._names(a, b, choice), **asdict(c), order_holds=holds))
        return out

    def finite_n(self, cells: list[StoredCell], choice: MetricChoice) -> list[FiniteNRow]:
        """What each cell's distance of sets owes to its number of images."""
        out = []
        for stored in cells:
            if (held := self._finite_n(stored, choice)) is not None:
                row = FiniteNRow(
                    model=stored.cell.model,
                    role=stored.role,
                    method=stored.cell.method,
                    metric=choice.label,
                    steps=stored.cell.steps,
                    n=stored.cell.images,
                    **asdict(held),
                )
                out.append(row)
        return out

    def _finite_n(self, stored: StoredCell, choice: MetricChoice) -> FiniteN | None:
        place = (stored.store.key, choice.label)
        if place not in self._halves and isinstance(choice.metric, SetMetric):
            halves = None
            if stored.cell.n_prompts >= 4:
                halves = choice.metric.finite_n(self.features(stored, choice))
            self._halves[place] = halves
        return self._halves.get(place)


def detectable(d: Difference, comparisons: int) -> float:
    """The smallest difference that a comparison like this one would show, with power 0.8."""
    prompts = int(d.freedom) + 1
    deviation = d.error * prompts**0.5
    return minimum_detectable_effect(deviation, prompts, comparisons=comparisons)


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _numbers(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    """Value and interval of an estimate; None for each that does not exist."""
    if estimate is None:
        return None, None, None
    return float(estimate.value), _finite(estimate.low), _finite(estimate.high)


def result_row(
    place: tuple[Role, Cell, str],
    choice: MetricChoice,
    estimate: Estimate | None,
    reason: str | None,
    nfe: float | None,
    protocol: str,
    relative: Estimate | None = None,
) -> ResultRow:
    """A row of results.json; intervals that do not exist (one prompt) become none.

    place: the cell with its role and key.
    """
    role, cell, cell_key = place
    value, low, high = _numbers(estimate)
    share, share_low, share_high = _numbers(relative)
    return ResultRow(
        model=cell.model,
        method=cell.method,
        role=role,
        steps=cell.steps,
        task=cell.task,
        prompts=cell.prompts,
        metric=choice.label,
        value=value,
        low=low,
        high=high,
        n=cell.images,
        nfe=nfe,
        protocol=protocol,
        feature_key="",
        reason=reason,
        key=cell_key,
        relative=share,
        relative_low=share_low,
        relative_high=share_high,
    )
