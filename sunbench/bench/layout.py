"""The whole plan of a run: every model with its prompts, cells, cost and provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sunbench import zoo
from sunbench.bench.plan import Planned, cards, plan_model, prompt_set
from sunbench.bench.request import Request
from sunbench.bench.sources import SourcePlan, plan_sources, task_content
from sunbench.errors import UserError
from sunbench.metrics.registry import find as find_metric
from sunbench.models import ModelCard, load
from sunbench.paths import cell_folder
from sunbench.sampling import latent_shape
from sunbench.sampling.texts import embedding_bytes
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
    sources: SourcePlan | None = None
    text_bytes: int = 0

    @property
    def nfe(self) -> int:
        """Planned U-Net evaluations."""
        return sum(c.planned_nfe for c in self.cells)

    @property
    def whole(self) -> ModelPlan:
        """The plan with the cell of the sources among the others."""
        own = None if self.sources is None else self.sources.own
        return self if own is None else replace(self, cells=[own, *self.cells])

    @property
    def seconds(self) -> float:
        """Expected seconds, by the U-Net alone."""
        return self.nfe * self.seconds_per_nfe


def default_metrics(card: ModelCard, task: str = "text2image") -> tuple[str, ...]:
    """The metrics of a model by default: its feature network's distances, its scorer, the pairs."""
    net = card.extractor
    fd = "fid" if net == "inception" else f"fd[{net}]"
    perceptual = "perceptual[zoo-clip]" if net == "zoo-clip" else "lpips[alex]"
    return (
        fd,
        f"kid[{net}]",
        f"clip_score[{card.scorer}]",
        perceptual,
        "ssim",
        "psnr",
        f"cos[{card.scorer}]",
        *(["unmasked_psnr"] if task == "inpaint" else []),
    )


def plan(request: Request) -> list[ModelPlan]:
    """Load the models and lay out their cells; names of metrics and prompts are checked first."""
    out: list[ModelPlan] = []
    chosen = cards(request)
    for card in chosen:
        for name in request.metrics or default_metrics(card, request.task):
            find_metric(name)
    prompts = [prompt_set(card, request) for card in chosen]
    for card, rows in zip(chosen, prompts, strict=True):
        loaded = load_model(card, request)
        sources = plan_sources(loaded, rows, request)
        cells = plan_model(loaded, rows, request, task_content(request, sources))
        for earlier in out:
            earlier.loaded = None
        side = latent_shape(loaded.pipeline, cells[0].cell.resolution)[1]
        seconds = seconds_per_evaluation(loaded.pipeline, request.batch, side)
        provenance = _provenance(loaded, rows, cells)
        if sources is not None:
            provenance["sources"] = sources.provenance()
        texts = 2 * len(rows) * embedding_bytes(loaded.pipeline)  # prompts, negative prompts
        out.append(ModelPlan(card, rows, cells, provenance, seconds, loaded, sources, texts))
    return out


def load_model(card: ModelCard, request: Request) -> LoadedModel:
    """The card's pipeline as the request wants it."""
    dtype = getattr(torch, request.dtype)
    control = controlnet_for(card, request) if request.task == "controlnet" else None
    return load(card, device=request.device, dtype=dtype, task=request.task, controlnet=control)


def controlnet_for(card: ModelCard, request: Request) -> str:
    """The ControlNet of a run: the one that is asked for, else the zoo's for its models."""
    if request.controlnet is not None:
        return request.controlnet
    if card.source != "zoo":
        raise UserError(
            f"{card.name}: given no ControlNet, expected one on edges: --controlnet FOLDER or"
            " owner/name"
        )
    return str(zoo.controlnet())


#: Of features and scores an image: Inception's 2048 numbers, CLIP-g's 1024 and some room.
FEATURES = 16384


def bytes_needed(plans: list[ModelPlan], keep_images: bool, out: Path) -> tuple[int, int]:
    """A generous guess of the disk still to fill, in ``out`` and in the cache."""
    here = cached = 0
    for cell in (c for p in plans for c in p.cells if c.skip is None):
        kept = keep_images or cell.role in ("reference", "source")
        whole = cell.cell.images * (3 * cell.cell.resolution**2 * kept + FEATURES)
        folder = cell_folder(out, cell.role, key(cell.cell.content()))
        left = max(0, whole - sum(f.stat().st_size for f in folder.glob("shard-*")))
        here, cached = (here + left, cached) if cell.role == "candidate" else (here, cached + left)
    return here + sum(p.text_bytes for p in plans), cached


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
