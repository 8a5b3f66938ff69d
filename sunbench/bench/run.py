"""A run from request to results: plan, make what is missing, evaluate, write."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sunbench.bench.cells import PlannedCell
from sunbench.bench.claim import claim, read_marker
from sunbench.bench.clock import Clock
from sunbench.bench.environment import environment
from sunbench.bench.evaluate import add_requirements, evaluate
from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.bench.finished import Receipt, locked_run
from sunbench.bench.handles import CellHandle
from sunbench.bench.order import WorkOrder
from sunbench.bench.outcome import Outcome
from sunbench.bench.planner import ModelPlan, bytes_needed, load_model, metrics_of, plan
from sunbench.bench.power import add_power
from sunbench.bench.progress import NoProgress, Progress
from sunbench.bench.request import Request
from sunbench.bench.runner import Runner
from sunbench.bench.sources import SourceImages, open_sources
from sunbench.bench.timed import time_model
from sunbench.bench.workers import Workers, automatic, make_all, shards_there
from sunbench.errors import CannotSample, UserError
from sunbench.paths import reference_sets
from sunbench.sampling import text_pipeline
from sunbench.sampling.masks import mask
from sunbench.sampling.texts import clear_texts
from sunbench.store import Results, RunDocument, RunFolder, ensure_space, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from sunbench.models import LoadedModel

log = logging.getLogger(__name__)


def execute(
    request: Request,
    out: Path,
    progress: Progress | None = None,
    only: str | None = None,
    workers: Workers | Literal["auto"] | None = None,
) -> Outcome:
    """Run a request into a folder; complete shards that are there are not sampled again.

    only: a role (``reference``) to which the plan is cut. workers: who makes the shards; None is
    this process alone, "auto" takes what the machine has. Tables are the caller's to write.
    """
    claim(out)
    ensure_space(out, 0)
    with locked_run(out) as run:
        receipt = Receipt.of(request, only)
        if (outcome := receipt.outcome(run)) is not None:
            return outcome
        outcome = RunAtWork(request, run, progress or NoProgress(), workers).all(only)
        receipt.write(run)
    return outcome


@dataclass(frozen=True)
class RunAtWork:
    """A request being run.

    workers: who makes its shards before this process evaluates them; "auto" chooses, None is this
    process alone.
    """

    request: Request
    run: RunFolder
    progress: Progress
    workers: Workers | Literal["auto"] | None = None

    def all(self, only: str | None) -> Outcome:
        """Every model in turn, then the documents."""
        began, clock, outcome = time.time(), Clock(), Outcome()
        with clock.phase("loading models"):
            plans = plan(self.request)
        for model in plans:
            model.cells = [c for c in model.cells if only in (None, c.role)]
        whole = [model.whole for model in plans]
        here, cached = bytes_needed(whole, self.request.keep_images, self.run.path)
        _ensure_room(self.run.path, here, cached)
        add_power(whole, self.request, self.run.path)
        self.progress.planned(whole, here + cached)
        if self._by_workers(plans, only, clock, outcome):
            return replace(self, progress=NoProgress(), workers=None)._rest(
                plans, clock, outcome, began
            )
        return self._rest(plans, clock, outcome, began)

    def _by_workers(
        self, plans: list[ModelPlan], only: str | None, clock: Clock, outcome: Outcome
    ) -> bool:
        """Let workers make the shards; False where this process is to make them."""
        chosen = self.workers
        if chosen == "auto":
            chosen = automatic(plans, self.request.device, self.run.path)
        if chosen is None:
            return False
        WorkOrder.of(self.request, only, plans).write(self.run.path)
        for model in plans:
            model.loaded = None
        before = shards_there(self.run.path, plans)
        with clock.phase("workers"):
            make_all(chosen, self.run, plans, self.progress)
        clear_texts(self.run.path / "texts")
        outcome.new_shards += shards_there(self.run.path, plans) - before
        return True

    def _rest(
        self, plans: list[ModelPlan], clock: Clock, outcome: Outcome, began: float
    ) -> Outcome:
        """Make what is missing still, evaluate and write."""
        for model in plans:
            with clock.phase("loading models"):
                model.loaded = model.loaded or load_model(model.card, self.request)
            self._model(model, clock, outcome)
            model.loaded = None
        self._write(plans, clock, outcome, time.time() - began)
        return outcome

    def _model(self, model: ModelPlan, clock: Clock, outcome: Outcome) -> None:
        runner = self.runner_for(model, clock, outcome)
        handles: dict[tuple[str, str], CellHandle] = {}
        for i, planned in enumerate(model.cells):
            if planned.skip is None:
                reference = handles.get(model.cells[0].place)
                model.cells[i] = self._cell(planned, runner, reference, handles)
        runner.close()
        outcome.new_shards += runner.new_shards
        add_requirements(model, outcome)
        with clock.phase("timing pass"):
            if self.request.timing != "none":
                self.progress.stage(f"{model.card.name}: timing pass")
                outcome.times += time_model(model, self.request, runner)
        self.progress.stage(f"{model.card.name}: statistics and intervals")
        with clock.phase("statistics and intervals"):
            texts = [p.text for p in model.prompts.rows]
            evaluate(model.cells, handles, texts, runner.extractors, outcome, self.request.nfe)

    def runner_for(self, model: ModelPlan, clock: Clock, outcome: Outcome) -> Runner:
        """The runner of a loaded model, with its feature networks and source images."""
        assert model.loaded is not None
        with clock.phase("loading feature networks"):
            extractors = FeatureExtractors.load(
                metrics_of(model.card, self.request), self.request.device
            )
        sources, painted = self._sources(model, clock, outcome)
        return self._runner(model.loaded, clock, extractors, sources, painted)

    def _cell(
        self,
        planned: PlannedCell,
        runner: Runner,
        reference: CellHandle | None,
        handles: dict[tuple[str, str], CellHandle],
    ) -> PlannedCell:
        """Make a cell; where a candidate's method fails, the plan says why."""
        self.progress.cell(planned)
        candidate = planned.role == "candidate"
        try:
            paired = planned.role in ("candidate", "floor")
            handles[planned.place] = runner.make(planned, reference if paired else None)
        except CannotSample as error:
            if not candidate:
                raise
            log.warning("%s: %s", planned.cell.label, error)
            return replace(planned, skip=str(error))
        return planned

    def _runner(
        self,
        loaded: LoadedModel,
        clock: Clock,
        extractors: FeatureExtractors | None = None,
        sources: SourceImages | None = None,
        painted: Tensor | None = None,
    ) -> Runner:
        return Runner(
            loaded,
            self.run.path,
            batch=self.request.batch,
            keep_images=self.request.keep_images,
            extractors=extractors,
            clock=clock,
            advance=self.progress.advance,
            sources=sources,
            mask=painted,
        )

    def _sources(
        self, model: ModelPlan, clock: Clock, outcome: Outcome
    ) -> tuple[SourceImages | None, Tensor | None]:
        """Source images, the model's own made first, and the mask; none for text2image."""
        sources, loaded, cell = model.sources, model.loaded, model.cells[0].cell
        if sources is None or loaded is None:
            return None, None
        handle = None
        if sources.own is not None:
            self.progress.cell(sources.own)
            plain = replace(loaded, pipeline=text_pipeline(loaded.pipeline))
            runner = self._runner(plain, clock)
            handle = runner.make(sources.own)
            outcome.new_shards += runner.new_shards
        painted = mask(self.request.mask, cell.resolution) if cell.task == "inpaint" else None
        return open_sources(sources, handle, cell), painted

    def _write(
        self, plans: list[ModelPlan], clock: Clock, outcome: Outcome, seconds: float
    ) -> None:
        document = RunDocument(
            request=json.loads(json.dumps(self.request.to_json())),
            environment=environment(),
            models=tuple(p.provenance for p in plans),
            seconds=seconds,
            phases=dict(clock.seconds),
            black_images=outcome.black,
            new_shards=outcome.new_shards,
        )
        if outcome.new_shards or self._is_other(document):
            self.run.write_run(document)
        self.run.write_results(
            Results(
                rows=tuple(outcome.rows),
                pairs=tuple(outcome.pairs),
                set_pairs=tuple(outcome.set_pairs),
                finite_n=tuple(outcome.finite_n),
                timing=tuple(outcome.times),
                requirements=tuple(outcome.requirements),
            )
        )

    def _is_other(self, document: RunDocument) -> bool:
        """Whether run.json says anything else of what was run; else it is left as it is."""
        names = ("request", "models", "black_images")
        try:
            held, finished = self.run.read_run(), read_marker(self.run.path)
        except UserError:  # missing or broken: to be written again
            return True
        if finished and finished.get(self.run.run_file.name) != sha256_file(self.run.run_file):
            return True
        return any(getattr(held, n) != getattr(document, n) for n in names)


def _ensure_room(out: Path, here: int, cached: int) -> None:
    """Room for the run and for the cache, which may lie on one disk."""
    ensure_space(reference_sets(), cached)
    one_disk = out.stat().st_dev == reference_sets().stat().st_dev
    ensure_space(out, here + cached if one_disk else here)
