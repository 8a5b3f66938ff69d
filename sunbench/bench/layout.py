"""The whole plan of a run: every model with its prompts, cells, cost and provenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sunbench.bench.plan import Planned, cards, plan_model, prompt_set
from sunbench.bench.request import Request
from sunbench.models import ModelCard, load
from sunbench.sampling import latent_shape
from sunbench.store import key
from sunbench.timing import seconds_per_evaluation

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet


@dataclass
class ModelPlan:
    """One model with its prompts and cells; its weights are held only while it is at work."""

    card: ModelCard
    rows: PromptSet
    cells: list[Planned]
    provenance: dict[str, Any]
    seconds_per_nfe: float = 0.0
    loaded: LoadedModel | None = None

    @property
    def nfe(self) -> int:
        """Planned U-Net evaluations."""
        return sum(c.planned_nfe for c in self.cells)

    @property
    def seconds(self) -> float:
        """Expected seconds, by the U-Net alone."""
        return self.nfe * self.seconds_per_nfe


def default_metrics(card: ModelCard) -> tuple[str, ...]:
    """The metrics of a model by default: its feature network's distances, its scorer, the pairs."""
    net = card.extractor
    fd = "fid" if net == "inception" else f"fd[{net}]"
    lpips = "lpips[zoo-clip]" if net == "zoo-clip" else "lpips[alex]"
    return (
        fd,
        f"kid[{net}]",
        f"clip_score[{card.scorer}]",
        lpips,
        "ssim",
        "psnr",
        f"cos[{card.scorer}]",
    )


def plan(request: Request) -> list[ModelPlan]:
    """Load the models and lay out their cells."""
    out: list[ModelPlan] = []
    for card in cards(request):
        rows = prompt_set(card, request)
        loaded = load_model(card, request)
        cells = plan_model(loaded, rows, request)
        for earlier in out:
            earlier.loaded = None
        side = latent_shape(loaded.pipeline, cells[0].cell.resolution)[1]
        seconds = seconds_per_evaluation(loaded.pipeline, request.batch, side)
        provenance = _provenance(loaded, rows, cells)
        out.append(ModelPlan(card, rows, cells, provenance, seconds, loaded))
    return out


def load_model(card: ModelCard, request: Request) -> LoadedModel:
    """The card's pipeline as the request wants it."""
    dtype = getattr(torch, request.dtype)
    return load(card, device=request.device, dtype=dtype, task=request.task)


def bytes_needed(plans: list[ModelPlan], keep_images: bool) -> int:
    """A generous guess of the disk that the run fills: lossless pictures and 8 KB of features."""
    total = 0
    for p in plans:
        for c in p.cells:
            picture = 3 * c.cell.resolution**2 * (keep_images or c.role == "reference")
            total += c.cell.images * (picture + 8192) * (c.skip is None)
    return total


def _provenance(loaded: LoadedModel, rows: PromptSet, cells: list[Planned]) -> dict[str, Any]:
    return {
        "card": loaded.card.content,
        "vae": loaded.vae,
        "revision": loaded.revision,
        "weights": loaded.hashes,
        "prompts": {"name": rows.name, "hash": rows.hash, "n": len(rows), "source": rows.source},
        "cells": [
            {
                "role": c.role,
                "key": key(c.cell.content()),
                "label": c.cell.label,
                "content": c.cell.content(),
                "skip": c.skip,
            }
            for c in cells
        ],
    }
