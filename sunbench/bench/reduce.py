"""From stored features to numbers: statistics in float64, in shard order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sunbench.bench.cells import PlannedCell
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.handles import CellHandle
from sunbench.bench.runner import COST
from sunbench.errors import UserError
from sunbench.metrics import CellFeatures, Estimate, PerImageMetric, closer_share
from sunbench.metrics.estimate import Floats
from sunbench.metrics.networks import ClipExtractor
from sunbench.metrics.registry import MetricChoice
from sunbench.sampling import Cell
from sunbench.store import ResultRow, key

ROLE_NAMES = {"reference": "reference", "floor": "reference (other seeds)"}
#: Paired metrics say how far a picture moved; with other seeds there is no pair.
UNPAIRED = ("sets", "text", "alone")


def gather(made: CellHandle, feature: str) -> np.ndarray:
    """A feature of all images of a cell, in order."""
    parts = [made.store.read_features(k, feature) for k in range(made.cell.shards)]
    found = [p for p in parts if p is not None]
    if len(found) != len(parts):
        raise UserError(f"{made.store.folder}: feature {feature!r} is missing; run again")
    whole = np.concatenate(found)
    if len(whole) != made.cell.images:
        raise UserError(f"{made.cell.label}: {len(whole)} images, expected {made.cell.images}")
    return whole


def clusters(cell: Cell) -> np.ndarray:
    """Prompt number of each image: what the bootstrap resamples."""
    return np.arange(cell.images) // len(cell.seeds)


def cost(made: CellHandle) -> dict[str, float]:
    """NFE and seconds an image; the median over images, so that a hiccup does not count."""
    table = gather(made, "cost")
    return dict(zip(COST, np.median(table, 0).tolist(), strict=True))


@dataclass
class Reducer:
    """Computes one model's metrics against its reference; each number is computed once."""

    extractors: FeatureExtractors
    reference: CellHandle
    prompts: list[str]
    _texts: dict[str, np.ndarray] = field(default_factory=dict)
    _scores: dict[tuple[str, str], Floats] = field(default_factory=dict)

    def rows(self, made: CellHandle) -> list[ResultRow]:
        """Result rows of one cell, one per metric; the reference gets what needs no pair."""
        return [
            self._row(made, choice)
            for choice in self.extractors.choices
            if made.planned.role == "candidate"
            or (made.planned.role == "floor" and choice.metric.compares in UNPAIRED)
            or choice.metric.compares in ("text", "alone", "source")
        ]

    def _row(self, made: CellHandle, choice: MetricChoice) -> ResultRow:
        nfe = round(cost(made)["nfe"])
        reason = self.extractors.reasons.get(choice.label)
        if reason is not None:
            return result_row(made.planned, choice, None, reason, nfe, "")
        protocol = self._protocol(choice)
        return result_row(made.planned, choice, self.estimate(made, choice), None, nfe, protocol)

    def _protocol(self, choice: MetricChoice) -> str:
        network = self.extractors.network(choice)
        return choice.metric.protocol + (f"; {network.protocol}" if network is not None else "")

    # ------------------------------------------------------------------------- metrics

    def features(self, made: CellHandle, choice: MetricChoice) -> CellFeatures:
        """What a metric reads of one cell."""
        metric, name = choice.metric, self.extractors.feature(choice, self.reference.store.key)
        groups = clusters(made.cell)
        compared = metric.compares in ("sets", "pairs") and metric.reads != "images"
        return CellFeatures(
            gather(made, name),
            groups,
            gather(self.reference, name) if compared else None,
            self._text(str(choice.net))[groups] if metric.compares == "text" else None,
            self.extractors.network(choice),
        )

    def estimate(self, made: CellHandle, choice: MetricChoice) -> Estimate:
        """One metric of one cell."""
        return choice.metric.estimate(self.features(made, choice))

    def scores(self, made: CellHandle, choice: MetricChoice) -> Floats:
        """The metric of every image of a cell, for metrics that have one."""
        assert isinstance(choice.metric, PerImageMetric)
        place = (made.store.key, choice.label)
        if place not in self._scores:
            self._scores[place] = choice.metric.finite_scores(self.features(made, choice))
        return self._scores[place]

    def _text(self, net: str) -> np.ndarray:
        if net not in self._texts:
            network = self.extractors.networks[net]
            assert isinstance(network, ClipExtractor)
            self._texts[net] = network.embed_text(self.prompts).cpu().numpy()
        return self._texts[net]

    def pairs(self, candidates: list[CellHandle], choice: MetricChoice) -> list[dict[str, Any]]:
        """For every two methods at equal steps: on what share of prompts A is the closer."""
        out = []
        for a in candidates:
            for b in candidates:
                if a.cell.steps == b.cell.steps and a.cell.method < b.cell.method:
                    out.append(self._closer(a, b, choice))
        return out

    def _closer(self, a: CellHandle, b: CellHandle, choice: MetricChoice) -> dict[str, Any]:
        sign = 1 if choice.metric.better == "lower" else -1
        x, y = (sign * self.scores(m, choice) for m in (a, b))
        e = closer_share(x, y, clusters(a.cell))
        return {
            "model": a.cell.model,
            "steps": a.cell.steps,
            "metric": choice.label,
            "a": a.cell.method,
            "b": b.cell.method,
            "a_closer": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
        }


def result_row(
    planned: PlannedCell,
    choice: MetricChoice,
    estimate: Estimate | None,
    reason: str | None,
    nfe: int | None,
    protocol: str,
) -> ResultRow:
    """A row of results.json; intervals that do not exist (one prompt) become none."""
    cell = planned.cell
    value = low = high = None
    if estimate is not None:
        value = estimate.value
        if np.isfinite(estimate.low):
            low, high = estimate.low, estimate.high
    return ResultRow(
        model=cell.model,
        method=ROLE_NAMES.get(planned.role, cell.method),
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
        reason=reason,
        key=key(cell.content()),
    )
