"""The timing pass of a run: its reference and candidates on the model as it was sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunbench.bench.planner import ModelPlan, evaluation_seconds
from sunbench.bench.request import Request
from sunbench.bench.runner import Runner
from sunbench.sampling import TaskInputs
from sunbench.store.timings import TimingRow
from sunbench.timing import TimedMethod, TimingSettings, measure_times, timed_method

if TYPE_CHECKING:
    from sunbench.models import LoadedModel

#: A short pass may take this share of the seconds that a model's cells are expected to take.
SHARE = 0.05
#: Prompts that are encoded in turn.
PROMPTS = 64


def time_model(model: ModelPlan, request: Request, runner: Runner) -> list[TimingRow]:
    """Time a model's reference and candidates as they were sampled: same settings, same batch."""
    assert model.loaded is not None
    resolution = model.cells[0].cell.resolution
    # once more: what interrupted the plan's estimate would lengthen this pass as many times
    now = evaluation_seconds(model.loaded, request, resolution)
    prompts = tuple((p.text, p.negative) for p in model.prompts.rows[:PROMPTS])
    settings = TimingSettings(
        resolution=resolution,
        batch=runner.batch.size,
        prompts=prompts,
        source=_source(runner),
        budget_seconds=SHARE * model.nfe * min(now, model.seconds_per_nfe),
    )
    return measure_times(model.loaded, timed_methods(model, model.loaded), settings, request.timing)


def timed_methods(model: ModelPlan, loaded: LoadedModel) -> list[TimedMethod]:
    """The reference, and every candidate that could be sampled."""
    return [
        timed_method(c.method, loaded, c.settings, c.role)
        for c in model.cells
        if c.role in ("reference", "candidate") and c.skip is None
    ]


def _source(runner: Runner) -> TaskInputs | None:
    """The first image's source and mask; None for text2image."""
    return None if runner.sources is None else TaskInputs(runner.sources(range(1)), runner.mask)
