"""A run from request to results: plan, make what is missing, reduce, write."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sunbench.bench.environment import environment
from sunbench.bench.execute import COST, Clock, Executor, Made
from sunbench.bench.layout import ModelPlan, bytes_needed, default_metrics, load_model, plan
from sunbench.bench.probes import Probes
from sunbench.bench.reduce import Reducer, cost, result_row
from sunbench.bench.request import Request
from sunbench.bench.watch import Silent, Watcher
from sunbench.errors import UserError
from sunbench.paths import cell_folder
from sunbench.store import CellStore, ResultRow, RunFolder, ensure_space, key

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a run found."""

    rows: list[ResultRow] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
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
    ensure_space(out, 0)
    with run.lock():
        began, clock = time.time(), Clock()
        with clock.phase("loading models"):
            plans = plan(request)
        for model in plans:
            model.cells = [c for c in model.cells if only in (None, c.role)]
        needed = bytes_needed(plans, request.keep_images)
        ensure_space(out, needed)
        watcher.planned(plans, needed)
        outcome = Outcome()
        for model in plans:
            with clock.phase("loading models"):
                model.loaded = model.loaded or load_model(model.card, request)
            _run_model(model, request, run, clock, watcher, outcome)
            model.loaded = None
        _write(request, run, plans, clock, outcome, time.time() - began)
        shutil.rmtree(out / "texts", ignore_errors=True)
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
    metrics = request.metrics or default_metrics(model.card)
    with clock.phase("loading feature networks"):
        probes = Probes.load(metrics, request.device)
    executor = Executor(
        model.loaded,
        model.rows,
        probes,
        run.path / "texts",
        batch=request.batch,
        keep_images=request.keep_images,
        clock=clock,
        advance=watcher.advance,
    )
    made: list[Made] = []
    for planned in model.cells:
        if planned.skip is None:
            watcher.cell(planned)
            content = planned.cell.content()
            store = CellStore(cell_folder(run.path, planned.role, key(content)), content)
            reference = None if planned.role != "candidate" else made[0]
            one = Made(planned, store)
            outcome.new_shards += executor.make(one, reference)
            made.append(one)
    with clock.phase("statistics and intervals"):
        _reduce(model, probes, made, outcome)


def _reduce(model: ModelPlan, probes: Probes, made: list[Made], outcome: Outcome) -> None:
    reducer = Reducer(probes, made[0], [p.text for p in model.rows.rows])
    by_cell = {id(m.planned): m for m in made}
    for planned in model.cells:
        if id(planned) in by_cell:
            outcome.rows += reducer.rows(by_cell[id(planned)])
            outcome.times.append(_time_row(by_cell[id(planned)]))
            outcome.black += _black(by_cell[id(planned)])
        else:
            outcome.rows += [
                result_row(planned, c, None, planned.skip, None, "") for c in probes.choices
            ]
    candidates = [m for m in made if m.planned.role == "candidate"]
    for choice in probes.choices:
        if choice.metric.compares == "pairs" and choice.label not in probes.reasons:
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
    run.write_results(outcome.rows, {"pairs": outcome.pairs, "times": outcome.times})
    write_tables(run)


def _asked(run: RunFolder) -> Any:
    """The request that run.json holds, if any: a finished run asked for again is left as it is."""
    try:
        return run.read_run().get("request")
    except UserError:  # missing or cut short: to be written again
        return None
