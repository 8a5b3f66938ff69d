"""What a worker does: claim, sample and publish shards of a run in progress until none is left.

The run's process writes what is to be made into the run's folder (`sunbench.bench.order`); workers
of the same machine, of a SLURM job or of a Ray cluster read it there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from sunbench.bench.cells import PlannedCell
from sunbench.bench.clock import Clock
from sunbench.bench.order import WorkOrder, file_of, skip_file
from sunbench.bench.outcome import Outcome
from sunbench.bench.planner import ModelPlan, load_model, plan
from sunbench.bench.progress import NoProgress, Progress
from sunbench.bench.request import Request
from sunbench.bench.run import RunAtWork
from sunbench.bench.runner import Runner
from sunbench.bench.turns import POLL
from sunbench.errors import CannotSample
from sunbench.store import RunFolder, write_atomic
from sunbench.store.decode import decode


def work(run: Path, *, device: str | None = None, signs: Path | None = None) -> int:
    """Sample shards of the run in progress in a folder until none is left; how many were sampled.

    device: another than the run's. signs: a file that gets a line for each batch.
    Raises UserError for a folder without such a run, or a worker that would make other images.
    """
    order = WorkOrder.read(run)
    request = decode(Request, order.request, f"{file_of(run)}, request")
    request = request if device is None else replace(request, device=device)
    plans = plan(request, estimate=False)
    for model in plans:
        model.cells = [c for c in model.cells if order.only in (None, c.role)]
    order.check(plans)
    worker = Worker(request, RunFolder(run), _Tally(signs))
    for model in plans:
        worker.make(model)
    return worker.new_shards


class _Tally(NoProgress):
    """Leaves a sign of life where the run's process looks for it."""

    def __init__(self, file: Path | None) -> None:
        self.file = file

    def advance(self, nfe: int, stored: bool = False) -> None:
        """A line for the evaluations done."""
        if self.file is not None and nfe:
            with self.file.open("a") as out:
                out.write(f"{nfe}\n")


class Worker:
    """Makes what it can of a run's cells, shard by shard, beside other workers."""

    def __init__(self, request: Request, run: RunFolder, progress: Progress) -> None:
        self.at_work = RunAtWork(request, run, progress)
        self.request, self.run, self.new_shards = request, run, 0

    def make(self, model: ModelPlan) -> None:
        """Work on one model's cells until every shard is there or cannot be made.

        The longest cells go first after the reference, so that workers end at about one time.
        """
        model.loaded = model.loaded or load_model(model.card, self.request)
        runner = self.at_work.runner_for(model, Clock(), Outcome())
        cells = [c for c in model.cells if c.skip is None]
        cells.sort(key=lambda c: (c is not model.cells[0], -c.planned_nfe))
        while cells:
            before = runner.new_shards
            cells = [c for c in cells if self._left(runner, model.cells[0], c)]
            if cells and runner.new_shards == before and not self._early(runner, model, cells):
                time.sleep(POLL)
        self.new_shards += runner.new_shards
        model.loaded = None

    def _early(self, runner: Runner, model: ModelPlan, cells: list[PlannedCell]) -> bool:
        """Sample of one cell what waits for its reference, instead of waiting with it."""
        before = runner.new_shards
        for planned in cells:
            self._left(runner, model.cells[0], planned, before_reference=True)
            if runner.new_shards > before:
                return True
        return False

    def _left(
        self,
        runner: Runner,
        first: PlannedCell,
        planned: PlannedCell,
        *,
        before_reference: bool = False,
    ) -> bool:
        """Whether a cell lacks something after this worker did what it could."""
        paired = planned.role in ("candidate", "floor") and first.place != planned.place
        reference = runner.handle(first) if paired else None
        try:
            return runner.help(planned, reference, before_reference=before_reference) > 0
        except CannotSample as error:
            if planned.role != "candidate":
                raise
            write_atomic(skip_file(self.run.path, planned.key), str(error).encode())
            return False  # the run's own process finds it, too, and says why in its rows
