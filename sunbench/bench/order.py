"""What the workers of a run are to make: written by its process, read by each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunbench import __version__
from sunbench.bench.cells import PlannedCell
from sunbench.bench.planner import ModelPlan
from sunbench.bench.request import Request
from sunbench.errors import UserError
from sunbench.store import RunFolder, write_atomic
from sunbench.store.decode import decode
from sunbench.store.files import make_folder, read_versioned, to_json
from sunbench.store.manifest import differences

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class WorkOrder:
    """A request with the cells that it means, so that no worker makes others.

    only: a role to which the plan is cut. cells: content by key.
    """

    request: dict[str, Any]
    only: str | None
    sunbench: str
    cells: dict[str, dict[str, Any]]
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, request: Request, only: str | None, plans: Sequence[ModelPlan]) -> WorkOrder:
        """The order for a plan."""
        cells = {c.key: c.record.content for c in _cells(plans)}
        return cls(json.loads(json.dumps(request.to_json())), only, __version__, cells)

    @classmethod
    def read(cls, run: Path) -> WorkOrder:
        """The order in a run's folder; UserError where no run is in progress."""
        if not file_of(run).exists() or RunFolder(run).holder() is None:
            raise UserError(
                f"given {run}, where no run is in progress, expected the folder of one: start it"
                f" with `sunbench run --workers 0 --out {run}`"
            )
        document = read_versioned(file_of(run), SCHEMA_VERSION, "`sunbench run`")
        return decode(cls, document, str(file_of(run)))

    def write(self, run: Path) -> None:
        """Write the order into a run's folder."""
        make_folder(file_of(run).parent)
        write_atomic(file_of(run), to_json(asdict(self)))

    def check(self, plans: Sequence[ModelPlan]) -> None:
        """UserError when this worker's plan is not the run's: another version, other weights."""
        if self.sunbench != __version__:
            raise UserError(f"given sunbench {__version__}, expected the run's {self.sunbench}")
        for cell in _cells(plans):
            if cell.key not in self.cells:
                alike = next((c for c in self.cells.values() if _alike(c, cell.record.content)), {})
                names = differences(alike, cell.record.content)
                raise UserError(
                    f"{cell.cell.label}: this worker's cell {cell.key} is none of the run's; they"
                    f" differ in {names}"
                )


def file_of(run: Path) -> Path:
    """Where a run in progress says what is to be sampled."""
    return run / "work" / "order.json"


def skip_file(run: Path, key: str) -> Path:
    """The mark of a cell that its method cannot make."""
    return run / "work" / f"{key}.skip"


def _alike(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    return all(a[n] == b[n] for n in ("model", "method", "steps", "task", "seeds"))


def _cells(plans: Sequence[ModelPlan]) -> list[PlannedCell]:
    return [c for p in plans for c in p.whole.cells if c.skip is None]
