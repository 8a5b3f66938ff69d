"""Running what a table lacks, through the same machinery as ``sunbench run``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sunbench.bench import Request
from sunbench.bench.planner import plan
from sunbench.bench.progress import Progress
from sunbench.bench.request import request_cards
from sunbench.bench.run import execute
from sunbench.errors import UserError
from sunbench.metrics.registry import find_metric
from sunbench.paper.plan import Job, Options, label_of
from sunbench.store import CellReader, ModelRecord, ResultRow, RunDocument, RunFolder, readers
from sunbench.store.decode import decode

#: Settings in which a finished run that is used again must agree with the user's.
CHOICES = ("images", "seeds", "prompts", "negatives", "dtype")
SETTINGS = (*CHOICES, "column", "task", "guidance_scale", "resolution", "keep_images", "timing")


@dataclass(frozen=True)
class PartRun:
    """One part after its run: its request and rows, or why there is nothing."""

    job: Job
    request: Request
    rows: tuple[ResultRow, ...] = ()
    absent: str | None = None

    @cached_property
    def models(self) -> dict[str, ModelRecord]:
        """What run.json says of each model."""
        if self.absent is not None:
            return {}
        return {m.name: m for m in RunFolder(self.job.folder).read_run().models}

    def _readers(self, model: str, role: str) -> list[CellReader]:
        own = readers(self.job.folder, self.models[model]) if model in self.models else []
        return [c for c in own if c.role == role]

    def reference(self, model: str) -> CellReader | None:
        """The model's 25-step set."""
        return next(iter(self._readers(model, "reference")), None)

    def candidate(self, model: str, method: str, steps: int) -> CellReader | None:
        """A candidate that was sampled."""
        places = ((c, (c.about.method, c.about.steps)) for c in self._readers(model, "candidate"))
        return next((c for c, place in places if place == (method, steps)), None)

    def why_not(self, model: str, method: str) -> str:
        """Why a method has no images here."""
        cells = self.models[model].cells if model in self.models else ()
        skips = [c.skip for c in cells if c.skip is not None and c.about.method == method]
        return self.absent or next(reversed(skips), "its images are not in this run")


# ------------------------------------------------------------------------------ reuse


def read_request(document: RunDocument, where: str) -> Request:
    """The request in a run.json; UserError when it is not one of this version."""
    return decode(Request, document.request, f"{where}, request")


def widened(job: Job, options: Options) -> Request:
    """The request of a run that exists already, with what the table needs besides.

    UserError when a setting of the user's, or the part's own guidance, is another there.
    """
    run = RunFolder(job.folder)
    held, wanted = read_request(run.read_run(), str(run.run_file)), job.request
    own = ["guidance_scale"] if job.part.guidance is not None else []
    for name in [n for n in CHOICES if getattr(options, n) is not None] + own:
        if getattr(held, name) != getattr(wanted, name):
            raise UserError(
                f"{job.folder}: this run was made with {name} {getattr(held, name)}, "
                f"asked for {getattr(wanted, name)}; leave it out or take another folder"
            )
    more = wanted.metrics
    if held.metrics and not more:
        more = tuple(label_of(c, m) for c in request_cards(wanted) for m in ("fid", "clip"))
    return replace(
        wanted,
        **{name: getattr(held, name) for name in SETTINGS},
        models=_models(held, wanted),
        methods=_both(held.methods, wanted.methods),
        steps=_both(held.steps, wanted.steps),
        metrics=_both(held.metrics, more) if held.metrics else (),
        floor=held.floor or wanted.floor,
        weights={**held.weights, **wanted.weights},
    )


def _both(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(a + b))


def _models(held: Request, wanted: Request) -> tuple[str, ...]:
    names = {c.name for c in request_cards(held)}
    new = [
        s for s, c in zip(wanted.models, request_cards(wanted), strict=True) if c.name not in names
    ]
    return (*held.models, *new)


def covered(rows: list[ResultRow], wanted: Request) -> bool:
    """Whether every cell of a request has its values already."""
    labels = [find_metric(m).label for m in wanted.metrics]
    held = {
        (r.model, r.method, r.steps, r.metric)
        for r in rows
        if r.value is not None and r.role == "candidate"
    }
    return all(
        (card.name, method, steps, label) in held
        for card in request_cards(wanted)
        for method in wanted.methods
        for steps in wanted.steps
        for label in labels or [label_of(card, "fid")]
    )


# ------------------------------------------------------------------------------ running


def refused(request: Request) -> str | None:
    """Why no candidate of a request can run; None when one can. Nothing is sampled."""
    candidates = [c for p in plan(request) for c in p.cells if c.role == "candidate"]
    reasons = [c.skip for c in candidates if c.skip is not None]
    return reasons[0] if len(reasons) == len(candidates) else None


def run_job(job: Job, options: Options, progress: Progress, *, reuse: bool) -> PartRun:
    """Make what a part lacks. reuse: the folder is the user's, and what it holds is kept."""
    if job.absent is not None:
        return PartRun(job, job.request, absent=job.absent)
    run = RunFolder(job.folder)
    there = run.results_file.is_file() and run.run_file.is_file()
    request = widened(job, options) if reuse and there else job.request
    if reuse and there and covered(rows := run.read_results(), job.request):
        return PartRun(job, request, tuple(rows))
    if job.request.methods == ("sun",) and (reason := refused(job.request)):
        return PartRun(job, request, absent=reason)
    execute(request, job.folder, progress)
    return PartRun(job, request, tuple(run.read_results()))
