"""A table or a figure from options to something that can be written."""

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
from sunbench.paper.plan import Cast, Job, Options, cast, jobs, request_of
from sunbench.paper.runs import Found, refused, run_job
from sunbench.paper.sheets import Kept, Sheet, by_rows, by_variants, negative_jobs
from sunbench.paper.table import page
from sunbench.store import RunFolder


def make_table(
    entry: Entry, options: Options, run: Path, watcher: Progress, *, reuse: bool = False
) -> Page:
    """Run what the table lacks in a folder, and lay it out.

    reuse: the folder is a run of the user's, whose settings are kept and whose rows stay.
    """
    who = cast(entry, options.models, options.device)
    found = {
        job.part.name: run_job(job, options, watcher, reuse=reuse)
        for job in jobs(entry, who, options, run)
    }
    return page(entry, who, cells(entry, who, found), floors(found, who))


# ------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Figures:
    """How the pictures of a figure come about."""

    entry: Entry
    who: Cast
    options: Options
    run: Path
    watcher: Progress
    reuse: bool

    def found(self, job: Job) -> Found:
        """The job's run: made, or with ``reuse`` only read."""
        if not self.reuse:
            return run_job(job, self.options, self.watcher, reuse=False)
        rows = RunFolder(job.folder).read_results()
        return Found(job, job.request, tuple(rows))

    def sheets(self) -> list[Sheet]:
        """One sheet a model; NotAvailable, in one line, names what is missing."""
        if self.entry.layout == "tasks":
            return self._tasks()
        made = jobs(self.entry, self.who, self.options, self.run)
        self._check(made)
        if self.entry.layout == "negatives":
            return self._negatives(made[0])
        parts = {job.part.name: Kept(self.found(job)) for job in made}
        return by_rows(self.entry, self.who, parts)

    def _check(self, made: list[Job]) -> None:
        """Every adapter of an ablation, and SUN itself where the figure is about it."""
        absent = [job.absent for job in made if job.absent is not None]
        if absent and not self.reuse:
            raise NotAvailable(f"{self.entry.name}: {absent[0]}")
        if self.entry.needs_sun and not self.reuse:
            weights = {k: v for k, v in made[0].request.weights.items() if k.startswith("sun")}
            reason = refused(replace(made[0].request, methods=("sun",), weights=weights))
            if reason is not None:
                raise NotAvailable(f"{self.entry.name}: {reason}")

    def _negatives(self, job: Job) -> list[Sheet]:
        who, spec = self.who, job.request.prompts or self.who.cards[0].prompts
        rows = prompts.load(spec, limit=job.request.n_prompts).rows
        made = negative_jobs(self.entry, who, job, rows, self.options)
        words = self.entry.zoo_negatives if who.small else self.entry.negatives
        variants = [
            (f"not: {negative}" if negative else "no negative", Kept(self.found(one)))
            for negative, one in zip(words, made, strict=True)
        ]
        return by_variants(
            self.entry, who, variants, "Each prompt has one noise for all its negatives."
        )

    def _tasks(self) -> list[Sheet]:
        known = bench_request.TASKS
        lacking = [t for t in self.entry.tasks if t not in known]
        if len(lacking) == len(self.entry.tasks):
            raise NotAvailable(
                f"{self.entry.name} needs the tasks {', '.join(lacking)};"
                f" this version runs {', '.join(known)}"
            )
        made = [self._task_job(t) for t in self.entry.tasks if t in known]
        self._check(made)
        variants = [(job.request.task, Kept(self.found(job))) for job in made]
        note = f"Not run by this version: {', '.join(lacking)}." if lacking else ""
        return by_variants(self.entry, self.who, variants, note)

    def _task_job(self, task: str) -> Job:
        part = self.entry.parts[0]
        request = request_of(self.entry, part, self.who, self.options, task=task)
        return Job(part, self.run / task, request)


def make_figure(
    entry: Entry, options: Options, run: Path, watcher: Progress, *, reuse: bool = False
) -> list[Sheet]:
    """The sheets of a figure. reuse: draw from the finished run in the folder, sample nothing."""
    if reuse and not run.is_dir():
        raise UserError(f"given --run {run}, expected the folder of a finished run")
    who = cast(entry, options.models, options.device)
    return Figures(entry, who, options, run, watcher, reuse).sheets()
