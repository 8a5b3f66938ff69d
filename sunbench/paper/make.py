"""From options to the page of a table or the sheets of a figure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sunbench import prompts
from sunbench.bench import request as bench_request
from sunbench.bench.progress import Progress
from sunbench.errors import NotAvailable, UserError
from sunbench.paper.catalogue import Entry
from sunbench.paper.cells import cells, floors
from sunbench.paper.page import Page
from sunbench.paper.plan import Job, ModelMap, Options, jobs, map_models, request_of
from sunbench.paper.real import real_floors
from sunbench.paper.runs import PartRun, refused, run_job
from sunbench.paper.sheets import ImageSheet, by_rows, by_variants, negative_jobs
from sunbench.paper.table import table_page
from sunbench.store import RunFolder


def make_table(
    entry: Entry, options: Options, run: Path, progress: Progress, *, reuse: bool = False
) -> Page:
    """Run what the table lacks in a folder, and lay it out.

    reuse: the folder is a run of the user's, whose settings are kept and whose rows stay.
    """
    models = map_models(entry, options.models, options.device)
    runs = {
        job.part.name: run_job(job, options, progress, reuse=reuse)
        for job in jobs(entry, models, options, run)
    }
    real = real_floors(entry, runs, models)
    return table_page(entry, models, cells(entry, models, runs), floors(runs, models), real)


# ------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Figures:
    """A figure with everything that its images need."""

    entry: Entry
    models: ModelMap
    options: Options
    run: Path
    progress: Progress
    reuse: bool

    def finished(self, job: Job) -> PartRun:
        """The job's run: completed first, or with ``reuse`` only read."""
        if not self.reuse:
            return run_job(job, self.options, self.progress, reuse=False)
        rows = RunFolder(job.folder).read_results()
        return PartRun(job, job.request, tuple(rows))

    def sheets(self) -> list[ImageSheet]:
        """One sheet per model; NotAvailable, in one line, names what is missing."""
        if self.entry.layout == "tasks":
            return self._tasks()
        needed = jobs(self.entry, self.models, self.options, self.run)
        self._check(needed)
        if self.entry.layout == "negatives":
            return self._negatives(needed[0])
        parts = {job.part.name: self.finished(job) for job in needed}
        return by_rows(self.entry, self.models, parts)

    def _check(self, needed: list[Job]) -> None:
        """Every adapter of an ablation, and SUN itself where the figure is about it."""
        absent = [job.absent for job in needed if job.absent is not None]
        if absent and not self.reuse:
            raise NotAvailable(f"{self.entry.name}: {absent[0]}")
        if self.entry.needs_sun and not self.reuse:
            weights = {k: v for k, v in needed[0].request.weights.items() if k.startswith("sun")}
            reason = refused(replace(needed[0].request, methods=("sun",), weights=weights))
            if reason is not None:
                raise NotAvailable(f"{self.entry.name}: {reason}")

    def _negatives(self, job: Job) -> list[ImageSheet]:
        models, spec = self.models, job.request.prompts or self.models.cards[0].prompts
        rows = prompts.load(spec, limit=job.request.n_prompts).rows
        runs = negative_jobs(self.entry, models, job, rows, self.options)
        words = self.entry.zoo_negatives if models.small else self.entry.negatives
        variants = [
            (f"not: {negative}" if negative else "no negative", self.finished(one))
            for negative, one in zip(words, runs, strict=True)
        ]
        return by_variants(
            self.entry, models, variants, "Each prompt has one noise for all its negatives."
        )

    def _tasks(self) -> list[ImageSheet]:
        known = bench_request.TASKS
        lacking = [t for t in self.entry.tasks if t not in known]
        if len(lacking) == len(self.entry.tasks):
            raise NotAvailable(
                f"{self.entry.name} needs the tasks {', '.join(lacking)};"
                f" this version runs {', '.join(known)}"
            )
        tasks = [self._task_job(t) for t in self.entry.tasks if t in known]
        self._check(tasks)
        variants = [(job.request.task, self.finished(job)) for job in tasks]
        note = f"Not run by this version: {', '.join(lacking)}." if lacking else ""
        return by_variants(self.entry, self.models, variants, note)

    def _task_job(self, task: str) -> Job:
        part = self.entry.parts[0]
        request = request_of(self.entry, part, self.models, self.options, task=task)
        return Job(part, self.run / task, request)


def make_figure(
    entry: Entry, options: Options, run: Path, progress: Progress, *, reuse: bool = False
) -> list[ImageSheet]:
    """The sheets of a figure. reuse: draw from the finished run in the folder, sample nothing."""
    if reuse and not run.is_dir():
        raise UserError(f"given --run {run}, expected the folder of a finished run")
    models = map_models(entry, options.models, options.device)
    return Figures(entry, models, options, run, progress, reuse).sheets()
