"""From a request to cells: what will be sampled, at what cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sunbench import prompts, registry
from sunbench.bench.request import Request
from sunbench.errors import UserError
from sunbench.models import ModelCard, find
from sunbench.reference_sets import FLOOR_OFFSET, recipe_for
from sunbench.sampling import Cell, Method, SampleSettings

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet

TaskContent = tuple[tuple[str, Any], ...]


def settings_of(cell: Cell) -> SampleSettings:
    """What the sampler of a cell is told."""
    return SampleSettings(cell.steps, cell.guidance_scale, cell.task, cell.strength)


@dataclass(frozen=True)
class Planned:
    """One cell with its part in the run, or the reason why it cannot be run.

    method: what samples it, with its weights chosen.
    """

    role: str
    cell: Cell
    method: Method = field(compare=False, repr=False)
    skip: str | None = None
    evaluations: int = 0  # of the U-Net, that one image is expected to take

    @property
    def settings(self) -> SampleSettings:
        """What its sampler is told."""
        return settings_of(self.cell)

    @property
    def planned_nfe(self) -> int:
        """U-Net evaluations that its images are expected to take; the run counts the real ones."""
        return 0 if self.skip else self.cell.images * self.evaluations


def prompt_set(card: ModelCard, request: Request) -> PromptSet:
    """The run's prompts for one model."""
    return prompts.load(
        request.prompts or card.prompts,
        column=request.column,
        negatives=request.negatives,
        default_negative=card.default_negative,
        limit=request.n_prompts,
    )


def cards(request: Request) -> list[ModelCard]:
    """The cards of the request's models; their names head the tables, so no two may be equal."""
    found = [find(name) for name in request.models]
    names = [card.name for card in found]
    registry.check_weights_models(request.weights, names)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"given two models named {name!r}, expected different names")
    return found


def reference_cell(
    loaded: LoadedModel, rows: PromptSet, request: Request, task_content: TaskContent = ()
) -> Planned:
    """The cell that candidates are compared with."""
    recipe = recipe_for(loaded.card.name)
    ours = registry.method(recipe.method, model=loaded.context)
    cell = _cell(loaded, rows, request, ours, recipe.steps, task_content)
    plain = replace(settings_of(cell), guidance_scale=1.0)  # a student may run without CFG
    if (reason := ours.skip(loaded.pipeline, plain)) is not None:
        raise UserError(f"{cell.label}, the reference: {reason}")
    return Planned("reference", cell, ours, None, ours.evaluations(settings_of(cell)))


def plan_model(
    loaded: LoadedModel, rows: PromptSet, request: Request, task_content: TaskContent = ()
) -> list[Planned]:
    """Reference, floor, then every method at every number of steps."""
    reference = reference_cell(loaded, rows, request, task_content)
    out = [reference]
    if request.floor:
        shifted = tuple(s + FLOOR_OFFSET for s in request.seeds)
        out.append(replace(reference, role="floor", cell=replace(reference.cell, seeds=shifted)))
    for name in request.methods:
        method = registry.method(name, weights=request.weights, model=loaded.context)
        for steps in request.steps:
            cell = _cell(loaded, rows, request, method, steps, task_content)
            settings = settings_of(cell)
            skip = method.skip(loaded.pipeline, settings)
            nfe = method.evaluations(settings)
            out.append(Planned("candidate", cell, method, skip, nfe))
    return out


def _cell(
    loaded: LoadedModel,
    rows: PromptSet,
    request: Request,
    method: Method,
    steps: int,
    task_content: TaskContent,
) -> Cell:
    card = loaded.card
    guidance = card.guidance_scale if request.guidance_scale is None else request.guidance_scale
    strength = float(dict(task_content).get("strength", 1.0))
    settings = SampleSettings(steps, guidance, request.task, strength)
    return Cell(
        model=card.name,
        weights=tuple(sorted(loaded.hashes.items())),
        method=method.name,
        method_content=_items(method.content(loaded.pipeline, settings)),
        steps=steps,
        guidance_scale=guidance,
        task=request.task,
        prompts=rows.name,
        prompts_hash=rows.hash,
        n_prompts=len(rows),
        seeds=request.seeds,
        resolution=request.resolution or card.resolution,
        dtype=request.dtype,
        task_content=task_content,
    )


def _items(table: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(table.items()))
