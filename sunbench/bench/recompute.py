"""The numbers of a finished run once more, from what its cells store; nothing is sampled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sunbench.bench.evaluate import Outcome, evaluate
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.errors import NotAvailable
from sunbench.metrics import load_network
from sunbench.metrics.networks.network import Network
from sunbench.metrics.registry import MetricChoice, find
from sunbench.paths import cell_folder
from sunbench.sampling import Cell
from sunbench.store import CellRecord, CellStore, ModelRecord, ResultRow, Role

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadCell:
    """A sampled cell of run.json with its shards, opened to be read alone."""

    role: Role
    cell: Cell
    store: CellStore

    @classmethod
    def of(cls, run: Path, record: CellRecord) -> ReadCell:
        """The cell of a record; UserError for a folder that holds another."""
        folder = cell_folder(run, record.role, record.key)
        store = CellStore(folder, record.content, repair=False)
        return cls(record.role, Cell.from_content(record.content), store)

    @property
    def prompts(self) -> list[str]:
        """The text of each prompt."""
        rows = [r for k in range(self.cell.shards) for r in self.store.read_rows(k)]
        rows.sort(key=lambda row: row.index)
        return [r.prompt for r in rows[:: len(self.cell.seeds)]]


@dataclass(frozen=True)
class RecordedCell:
    """What run.json says of a cell."""

    role: Role
    key: str
    cell: Cell
    skip: str | None


@dataclass
class RecordedNetwork:
    """A feature network by what a result row tells of it: embeddings are stored, so that is all."""

    name: str
    protocol: str
    key: str


def recompute(run: Path, model: ModelRecord, rows: Sequence[ResultRow]) -> tuple[Outcome, set[str]]:
    """One model's rows and comparisons from the stored features, paired scores and prompts.

    rows: the model's, from results.json. Beside the outcome, the metrics that were left out because
    they need a network that is not here; the log says so. Errors: UserError for a missing or broken
    shard or feature.
    """
    cells = [RecordedCell(c.role, c.key, Cell.from_content(c.content), c.skip) for c in model.cells]
    cells.sort(key=lambda c: c.role != "reference")
    stored: dict[tuple[str, str], ReadCell] = {
        (c.role, c.key): ReadCell.of(run, c) for c in model.cells if c.skip is None
    }
    outcome = Outcome()
    prompts = stored[cells[0].role, cells[0].key].prompts
    extractors = recorded_extractors(rows)
    evaluate(cells, stored, prompts, extractors, outcome)
    valued = {r.metric for r in rows if r.value is not None}
    return outcome, valued & extractors.reasons.keys()


def recorded_extractors(rows: Sequence[ResultRow]) -> FeatureExtractors:
    """The metrics of these rows, without their networks where stored embeddings are enough."""
    choices = tuple(find(name) for name in dict.fromkeys(r.metric for r in rows))
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
