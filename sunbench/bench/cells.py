"""From a request to cells: what will be sampled, at what cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sunbench import registry
from sunbench.bench.request import Request
from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.reference_sets import FLOOR_OFFSET, recipe_for
from sunbench.sampling import Cell, Method, SampleSettings
from sunbench.store import CellRecord, Role, key

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet

#: A step costs at least an eighth of an evaluation, however much of the U-Net it reuses.
MOST_STEPS_PER_NFE = 8

TaskContent = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class PlannedCell:
    """One cell with its role, prompts and method, or the reason why it cannot be run.

    role: candidate, reference, floor or source. evaluations: of the U-Net, that one image is
    expected to take.
    """

    role: Role
    cell: Cell
    prompts: PromptSet
    method: Method
    skip: str | None = None
    evaluations: int = 0

    @property
    def key(self) -> str:
        """The key of its content."""
        return key(self.cell.content())

    @property
    def record(self) -> CellRecord:
        """What run.json says of it."""
        content = json.loads(json.dumps(self.cell.content()))
        return CellRecord(self.role, self.key, self.cell.label, content, self.skip)

    @property
    def place(self) -> tuple[str, str]:
        """What it is in its run: role and key."""
        return self.role, self.key

    @property
    def settings(self) -> SampleSettings:
        """What its sampler is told."""
        return settings_of(self.cell)

    @property
    def planned_nfe(self) -> int:
        """U-Net evaluations that its images are expected to take; the run counts the real ones."""
        return 0 if self.skip else self.cell.images * self.evaluations


def settings_of(cell: Cell) -> SampleSettings:
    """What the sampler of a cell is told."""
    return SampleSettings(cell.steps, cell.guidance_scale, cell.task, cell.strength)


def plan_cell(
    loaded: LoadedModel,
    prompts: PromptSet,
    method: Method,
    steps: int,
    *,
    role: Role = "candidate",
    seeds: tuple[int, ...] = (0,),
    guidance_scale: float | None = None,
    resolution: int | None = None,
    task: str = "text2image",
    task_content: TaskContent = (),
) -> PlannedCell:
    """A cell of any prompts (with their negative prompts), guidance and steps.

    guidance_scale, resolution: None for the model card's. ``skip`` says why the method cannot run.
    """
    card = loaded.card
    guidance = card.guidance_scale if guidance_scale is None else guidance_scale
    strength = float(dict(task_content).get("strength", 1.0))
    settings = SampleSettings(steps, guidance, task, strength)
    content = method.content(loaded.pipeline, settings)
    cell = Cell(
        model=card.name,
        weights=tuple(sorted(loaded.hashes.items())),
        method=method.name,
        method_content=tuple(sorted(content.items())),
        steps=steps,
        guidance_scale=guidance,
        task=task,
        prompts=prompts.name,
        prompts_hash=prompts.hash,
        n_prompts=len(prompts),
        seeds=seeds,
        resolution=resolution or card.resolution,
        dtype=str(loaded.pipeline.unet.dtype).removeprefix("torch."),
        task_content=task_content,
    )
    skip = method.skip(loaded.pipeline, settings)
    return PlannedCell(role, cell, prompts, method, skip, method.evaluations(settings))


def _requested(
    loaded: LoadedModel,
    prompts: PromptSet,
    request: Request,
    method: Method,
    steps: int,
    task_content: TaskContent,
) -> PlannedCell:
    return plan_cell(
        loaded,
        prompts,
        method,
        steps,
        seeds=request.seeds,
        guidance_scale=request.guidance_scale,
        resolution=request.resolution,
        task=request.task,
        task_content=task_content,
    )


def reference_cell(
    loaded: LoadedModel, prompts: PromptSet, request: Request, task_content: TaskContent = ()
) -> PlannedCell:
    """The cell that candidates are compared with."""
    recipe = recipe_for(loaded.card.name)
    method = registry.method(recipe.method, model=loaded.context)
    planned = _requested(loaded, prompts, request, method, recipe.steps, task_content)
    plain = replace(planned.settings, guidance_scale=1.0)  # a student may run without CFG
    if (reason := method.skip(loaded.pipeline, plain)) is not None:
        raise UserError(f"{planned.cell.label}, the reference: {reason}")
    return replace(planned, role="reference", skip=None)


def plan_model(
    loaded: LoadedModel, prompts: PromptSet, request: Request, task_content: TaskContent = ()
) -> list[PlannedCell]:
    """Reference, floor, then every method at every number of steps, or of evaluations."""
    reference = reference_cell(loaded, prompts, request, task_content)
    out = [reference]
    if request.floor:
        shifted = tuple(s + FLOOR_OFFSET for s in request.seeds)
        out.append(replace(reference, role="floor", cell=replace(reference.cell, seeds=shifted)))
    for name in request.methods:
        method = registry.method(name, weights=request.weights, model=loaded.context)
        for steps in request.steps:
            out.append(_requested(loaded, prompts, request, method, steps, task_content))
        out += _within_budgets(loaded, prompts, request, method, task_content)
    return out


def _within_budgets(
    loaded: LoadedModel,
    prompts: PromptSet,
    request: Request,
    method: Method,
    task_content: TaskContent,
) -> list[PlannedCell]:
    """A cell per budget of evaluations; of cells that are one, the one that can be run."""
    cells: dict[str, PlannedCell] = {}
    for budget in request.nfe:
        strength = float(dict(task_content).get("strength", 1.0))
        guidance = request.guidance_scale or loaded.card.guidance_scale
        settings = SampleSettings(1, guidance, request.task, strength)
        steps, reason = steps_for(method, loaded.pipeline, settings, budget)
        cell = _requested(loaded, prompts, request, method, steps, task_content)
        cell = replace(cell, skip=cell.skip or reason)
        if cell.key not in cells or cells[cell.key].skip is not None:
            cells[cell.key] = cell
    return list(cells.values())


def steps_for(
    method: Method, pipeline: Pipeline, settings: SampleSettings, budget: int
) -> tuple[int, str | None]:
    """The most steps within a budget of U-Net evaluations, and why they do not meet it.

    Where evaluations depend on more than the steps, as for guidance that is left out, they may stay
    below the budget: what was counted stands in the results.
    """
    expected = getattr(method, "expected_nfe", lambda _, s: method.evaluations(s))
    costs = {1: float(expected(pipeline, replace(settings, steps=1)))}
    while costs[len(costs)] <= budget and len(costs) < MOST_STEPS_PER_NFE * budget:
        costs[len(costs) + 1] = float(expected(pipeline, replace(settings, steps=len(costs) + 1)))
    within = [n for n, cost in costs.items() if cost <= budget]
    if not within:
        return 1, f"{budget} NFE asked, 1 step takes {costs[1]:g}"
    steps = within[-1]
    if costs[steps] == budget or getattr(method, "nfe_varies", False):
        return steps, None
    more = steps + 1
    return steps, f"{budget} NFE asked, {steps} steps take {costs[steps]:g}, {more} {costs[more]:g}"
