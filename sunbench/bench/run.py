"""A run from request to results: plan, make what is missing, reduce, write."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunbench.bench.claim import claim
from sunbench.bench.environment import environment
from sunbench.bench.execute import COST, Clock, Executor, Made
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.layout import ModelPlan, bytes_needed, default_metrics, load_model, plan
from sunbench.bench.plan import Planned
from sunbench.bench.reduce import Reducer, cost, result_row
from sunbench.bench.request import Request
from sunbench.bench.sources import Pictures, open_sources
from sunbench.bench.takes import takes
from sunbench.bench.watch import Silent, Watcher
from sunbench.errors import UserError
from sunbench.paths import cell_folder, reference_sets
from sunbench.sampling import text_pipeline
from sunbench.sampling.masks import mask
from sunbench.store import CellStore, ResultRow, RunFolder, ensure_space, key

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.models import LoadedModel

log = logging.getLogger(__name__)


def _ensure_room(out: Path, here: int, cached: int) -> None:
    """Room for the run and for the cache, which may lie on one disk."""
    ensure_space(reference_sets(), cached)
    one_disk = out.stat().st_dev == reference_sets().stat().st_dev
    ensure_space(out, here + cached if one_disk else here)


@dataclass
class Outcome:
    """What a run found."""

    rows: list[ResultRow] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
    takes: list[dict[str, Any]] = field(default_factory=list)
    black: int = 0
    new_shards: int = 0


def execute(
    request: Request, out: Path, watcher: Watcher | None = None, only: str | None = None
) -> Outcome:
    """Run a request into a folder; whatever is there already and whole is not made again.

    only: a role (``reference``) to which the plan is cut.
    """
    watcher = watcher or Silent()
    run = RunFolder(out)
    claim(out)
    ensure_space(out, 0)
    with run.lock():
        began, clock = time.time(), Clock()
        with clock.phase("loading models"):
            plans = plan(request)
        for model in plans:
            model.cells = [c for c in model.cells if only in (None, c.role)]
        whole = [model.whole for model in plans]
        here, cached = bytes_needed(whole, request.keep_images, out)
        _ensure_room(out, here, cached)
        watcher.planned(whole, here + cached)
        outcome = Outcome()
        for model in plans:
            with clock.phase("loading models"):
                model.loaded = model.loaded or load_model(model.card, request)
            _run_model(model, request, run, clock, watcher, outcome)
            model.loaded = None
        _write(request, run, plans, clock, outcome, time.time() - began)
    return outcome


def _run_model(
    model: ModelPlan,
    request: Request,
    run: RunFolder,
    clock: Clock,
    watcher: Watcher,
    outcome: Outcome,
) -> None:
    assert model.loaded is not None
    metrics = request.metrics or default_metrics(model.card, request.task)
    with clock.phase("loading feature networks"):
        extractors = FeatureExtractors.load(metrics, request.device)
    work = _Work(model, request, run, clock, watcher, outcome)
    executor = work.executor(model.loaded, extractors, *work.sources())
    made: list[Made] = []
    for planned in model.cells:
        if planned.skip is None:
            made.append(work.make(planned, executor, made))
    methods = {c.cell.method: c.method for c in model.cells if c.role == "candidate"}
    pipeline = model.loaded.pipeline
    outcome.takes += [
        {"model": model.card.name, **takes(method, pipeline)} for method in methods.values()
    ]
    with clock.phase("statistics and intervals"):
        _reduce(model, extractors, made, outcome)
    executor.texts.clear()


@dataclass(frozen=True)
class _Work:
    """One model's part of a run."""

    model: ModelPlan
    request: Request
    run: RunFolder
    clock: Clock
    watcher: Watcher
    outcome: Outcome

    def executor(
        self,
        loaded: LoadedModel,
        extractors: FeatureExtractors,
        sources: Pictures | None = None,
        mask: Tensor | None = None,
    ) -> Executor:
        """What makes cells of this model."""
        return Executor(
            loaded,
            self.model.rows,
            extractors,
            self.run.path / "texts",
            batch=self.request.batch,
            keep_images=self.request.keep_images,
            clock=self.clock,
            advance=self.watcher.advance,
            sources=sources,
            mask=mask,
        )

    def make(self, planned: Planned, executor: Executor, earlier: list[Made]) -> Made:
        """Make what a cell lacks, a candidate's paired with the reference before it."""
        self.watcher.cell(planned)
        content = planned.cell.content()
        store = CellStore(cell_folder(self.run.path, planned.role, key(content)), content)
        one = Made(planned, store)
        reference = earlier[0] if planned.role == "candidate" else None
        self.outcome.new_shards += executor.make(one, reference)
        return one

    def sources(self) -> tuple[Pictures | None, Tensor | None]:
        """Source pictures, the model's own made first, and the mask; none for text2image."""
        plan, loaded, cell = self.model.sources, self.model.loaded, self.model.cells[0].cell
        if plan is None or loaded is None:
            return None, None
        made = None
        if plan.own is not None:
            plain = replace(loaded, pipeline=text_pipeline(loaded.pipeline))
            made = self.make(plan.own, self.executor(plain, FeatureExtractors(())), [])
        painted = mask(self.request.mask, cell.resolution) if cell.task == "inpaint" else None
        return open_sources(plan, made, cell), painted


def _reduce(
    model: ModelPlan, extractors: FeatureExtractors, made: list[Made], outcome: Outcome
) -> None:
    reducer = Reducer(extractors, made[0], [p.text for p in model.rows.rows])
    by_cell = {id(m.planned): m for m in made}
    for planned in model.cells:
        if id(planned) in by_cell:
            outcome.rows += reducer.rows(by_cell[id(planned)])
            outcome.times.append(_time_row(by_cell[id(planned)]))
            outcome.black += _black(by_cell[id(planned)])
        else:
            outcome.rows += [
                result_row(planned, c, None, planned.skip, None, "") for c in extractors.choices
            ]
    candidates = [m for m in made if m.planned.role == "candidate"]
    for choice in extractors.choices:
        if choice.metric.compares == "pairs" and choice.label not in extractors.reasons:
            outcome.pairs += reducer.pairs(candidates, choice)


def _black(made: Made) -> int:
    return sum(r.black for k in range(made.cell.shards) for r in made.store.read_rows(k))


def _time_row(made: Made) -> dict[str, Any]:
    spent, cell = cost(made), made.cell
    return {
        "model": cell.model,
        "method": cell.method,
        "role": made.planned.role,
        "steps": cell.steps,
        **{name: spent[name] for name in COST},
    }


def _write(
    request: Request,
    run: RunFolder,
    plans: list[ModelPlan],
    clock: Clock,
    outcome: Outcome,
    seconds: float,
) -> None:
    from sunbench.report.tables import write_tables

    document = {
        "request": request.to_json(),
        "environment": environment(),
        "seconds": seconds,
        "phases": dict(clock.seconds),
        "black_images": outcome.black,
        "new_shards": outcome.new_shards,
        "models": [p.provenance for p in plans],
    }
    if outcome.new_shards or _asked(run) != json.loads(json.dumps(document["request"])):
        run.write_run(document)
    more = {"pairs": outcome.pairs, "times": outcome.times, "takes": outcome.takes}
    run.write_results(outcome.rows, more)
    write_tables(run)


def _asked(run: RunFolder) -> Any:
    """The request that run.json holds, if any: a finished run asked for again is left as it is."""
    try:
        return run.read_run().get("request")
    except UserError:  # missing or cut short: to be written again
        return None
