"""Images of any prompts, as a cell of the runner that is kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sunbench import registry
from sunbench.bench.cells import plan_cell
from sunbench.bench.handles import CellHandle
from sunbench.bench.runner import Runner
from sunbench.errors import UserError
from sunbench.paths import cache_root
from sunbench.prompts import Prompt, PromptSet

if TYPE_CHECKING:
    from sunbench.models import LoadedModel


def sampled_images(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    steps: int,
    guidance: float,
    method: str = "dpm++",
    *,
    seeds: tuple[int, ...] = (0,),
    sources: Tensor | None = None,
) -> Tensor:
    """Images of N prompts, uint8 (N * S, 3, H, W), the S seeds of a prompt together.

    sources: images (N, 3, H, W) uint8 whose edges a pipeline with a ControlNet is conditioned on.
    UserError for a method that cannot run on the model.
    """
    planned = plan_cell(
        loaded,
        PromptSet("prompts of a study", tuple(prompts), "a study", ""),
        registry.method(method, model=loaded.context),
        steps,
        seeds=seeds,
        guidance_scale=guidance,
        task="text2image" if sources is None else "controlnet",
        task_content=() if sources is None else _source_content(sources),
    )
    if planned.skip is not None:
        raise UserError(f"{planned.cell.label}: {planned.skip}")
    source_images = None if sources is None else lambda indices: sources[list(indices)]
    runner = Runner(loaded, cache_root() / "studies" / loaded.card.name, sources=source_images)
    (handle,) = runner.run([planned])
    return images_of(handle)


def images_of(handle: CellHandle) -> Tensor:
    """All images of a finished cell, uint8 (N * S, 3, H, W), the S seeds of a prompt together."""
    layout = handle.cell.layout
    parts = [handle.images(k) for k in range(layout.shards)]
    return torch.cat(parts)[torch.tensor(layout.stored).argsort()]


def _source_content(sources: Tensor) -> tuple[tuple[str, Any], ...]:
    digest = hashlib.sha256(sources.contiguous().numpy().tobytes()).hexdigest()
    return (("sources", digest),)
