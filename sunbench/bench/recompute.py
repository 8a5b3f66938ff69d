"""The numbers of a finished run once more, from what its cells store; nothing is sampled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sunbench.bench.evaluate import evaluate
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.outcome import Outcome
from sunbench.bench.reduce import StoredCell
from sunbench.errors import NotAvailable
from sunbench.metrics import load_network
from sunbench.metrics.networks.network import Network
from sunbench.metrics.registry import MetricChoice, find_metric
from sunbench.sampling import Cell
from sunbench.store import ModelRecord, ResultRow
from sunbench.store.reader import CellReader

log = logging.getLogger(__name__)


class RecordedCell(CellReader):
    """A cell of run.json, sampled or not."""

    @cached_property
    def cell(self) -> Cell:
        """What it is."""
        return Cell.from_content(self.record.content)


@dataclass
class RecordedNetwork:
    """A feature network by what a result row tells of it: embeddings are stored, so that is all."""

    name: str
    protocol: str
    key: str


def recompute(
    run: Path, model: ModelRecord, rows: Sequence[ResultRow], budgets: Sequence[int] = ()
) -> tuple[Outcome, set[str]]:
    """One model's rows and comparisons from the stored features, paired scores and prompts.

    rows: the model's, from results.json; budgets: as for ``evaluate``. Beside the outcome,
    the metrics that were left out because they need a network that is not here; the log says so.
    Errors: UserError for a missing or broken shard or feature.
    """
    cells = [RecordedCell(record, run) for record in model.cells]
    cells.sort(key=lambda c: c.role != "reference")
    sampled: dict[tuple[str, str], StoredCell] = {
        (c.role, c.key): c.check() for c in cells if c.skip is None
    }
    prompts = [row.prompt for row in cells[0].rows()[:: cells[0].seeds]]
    outcome = Outcome()
    extractors = recorded_extractors(rows)
    evaluate(cells, sampled, prompts, extractors, outcome, budgets)
    valued = {r.metric for r in rows if r.value is not None}
    return outcome, valued & extractors.reasons.keys()


def recorded_extractors(rows: Sequence[ResultRow]) -> FeatureExtractors:
    """The metrics of these rows, without their networks where stored embeddings are enough."""
    choices = tuple(find_metric(name) for name in dict.fromkeys(r.metric for r in rows))
    extractors = FeatureExtractors(choices)
    for choice in choices:
        row = next((r for r in rows if r.metric == choice.label and r.value is not None), None)
        if row is None:
            extractors.reasons[choice.label] = next(
                (r.reason or "" for r in rows if r.metric == choice.label), ""
            )
        elif choice.net is not None:
            _add_network(extractors, choice, row)
    return extractors


def _add_network(extractors: FeatureExtractors, choice: MetricChoice, row: ResultRow) -> None:
    net = str(choice.net)
    held: Network | None = extractors.networks.get(net)
    if _needs_network(choice):
        try:
            held = load_network(net, "cpu")
            if held.key[:8] != row.feature_key:
                raise NotAvailable(f"{net} has other weights here")
        except NotAvailable as error:
            log.warning("%s is not computed again: %s", choice.label, error)
            extractors.reasons[choice.label] = str(error)
            return
    elif held is None:
        held = RecordedNetwork(net, _network_protocol(choice, row), row.feature_key)
    extractors.networks[net] = held


def _needs_network(choice: MetricChoice) -> bool:
    """Whether a value is made of more than stored features: texts, or class probabilities."""
    return choice.metric.compares in ("text", "alone")


def _network_protocol(choice: MetricChoice, row: ResultRow) -> str:
    return row.protocol.removeprefix(f"{choice.metric.protocol}; ")
