"""The whole plan of a run: every model with its prompts, cells, cost and provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from sunbench import prompts, zoo
from sunbench.bench.batches import BatchSize
from sunbench.bench.cells import PlannedCell, plan_model
from sunbench.bench.request import Request, request_cards
from sunbench.bench.sources import SourcePlan, plan_sources, task_content
from sunbench.errors import UserError
from sunbench.metrics.registry import find_metric
from sunbench.models import ModelCard, load
from sunbench.paths import cell_folder
from sunbench.sampling import latent_shape
from sunbench.sampling.texts import embedding_bytes
from sunbench.store import ModelRecord, PromptSetRecord
from sunbench.timing import seconds_per_evaluation

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet

#: The estimate of time does not fill a device's memory.
TIMED_BATCH = 16


@dataclass
class ModelPlan:
    """One model with its prompts and cells; its weights may be held until its turn.

    facts: for run.json, all but the cells. text_bytes: of the embeddings of its prompts.
    power: the smallest difference that it can show, in words.
    """

    card: ModelCard
    prompts: PromptSet
    cells: list[PlannedCell]
    facts: ModelRecord
    seconds_per_nfe: float = 0.0
    loaded: LoadedModel | None = None
    sources: SourcePlan | None = None
    text_bytes: int = 0
    power: str = ""

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

    @property
    def not_pinned(self) -> list[str]:
        """A line for each name that may read something else another day."""
        lines = []
        if not self.card.pinned:
            lines.append(
                f"{self.card.name}: revision not pinned, read at commit {self.facts.revision}; name"
                " it (owner/name@COMMIT, or `revision` in a card) to read the same another day"
            )
        if not self.prompts.pinned:
            lines.append(
                f"prompts {self.prompts.name}: revision not pinned, read from {self.prompts.source}"
            )
        return lines

    @property
    def provenance(self) -> ModelRecord:
        """For run.json: where everything came from, and its cells."""
        sources = None if self.sources is None else self.sources.provenance()
        cells = tuple(c.record for c in self.cells)
        return replace(self.facts, cells=cells, sources=sources)


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
        "latent_cos",
        *(["unmasked_psnr"] if task == "inpaint" else []),
    )


def prompt_set(card: ModelCard, request: Request) -> PromptSet:
    """The run's prompts for one model."""
    return prompts.load(
        request.prompts or card.prompts,
        column=request.column,
        negatives=request.negatives,
        default_negative=card.default_negative,
        limit=request.n_prompts,
    )


def metrics_of(card: ModelCard, request: Request) -> tuple[str, ...]:
    """The metrics of a model: those of the request, else the card's; UserError for a wrong name."""
    names = request.metrics or default_metrics(card, request.task)
    for name in names:
        find_metric(name)
    return names


def plan(request: Request, *, estimate: bool = True) -> list[ModelPlan]:
    """Load the models and lay out their cells; names, metrics and prompts are checked first.

    estimate: time a few evaluations of each U-Net; without it, none is said to take any time. A
    model stays loaded for its work as long as memory has room for another like it.
    """
    chosen = request_cards(request)
    for card in chosen:
        metrics_of(card, request)
    sets = [prompt_set(card, request) for card in chosen]
    out: list[ModelPlan] = []
    for card, rows in zip(chosen, sets, strict=True):
        loaded = load_model(card, request)
        out.append(_plan_model(loaded, rows, request, estimate))
        if len(out) < len(chosen) and not _room_beside(loaded):
            for earlier in out:
                earlier.loaded = None
    return out


def _plan_model(
    loaded: LoadedModel, rows: PromptSet, request: Request, estimate: bool
) -> ModelPlan:
    sources = plan_sources(loaded, rows, request)
    cells = plan_model(loaded, rows, request, task_content(request, sources))
    facts = ModelRecord(
        card=json.loads(json.dumps(loaded.card.content)),
        weights=loaded.hashes,
        prompts=PromptSetRecord(rows.name, rows.hash, len(rows), rows.source),
        cells=(),
        vae=loaded.vae,
        revision=loaded.revision,
    )
    resolution = cells[0].cell.resolution
    seconds = evaluation_seconds(loaded, request, resolution) if estimate else 0.0
    texts = 2 * len(rows) * embedding_bytes(loaded.pipeline)  # prompts, negative prompts
    return ModelPlan(loaded.card, rows, cells, facts, seconds, loaded, sources, texts)


def evaluation_seconds(loaded: LoadedModel, request: Request, resolution: int) -> float:
    """Seconds of one U-Net evaluation at the run's batch size, by a few of them."""
    side = latent_shape(loaded.pipeline, resolution)[1]
    batch = BatchSize(request.batch, request.device)
    batch.size = min(batch.size, TIMED_BATCH)
    return batch.attempt(lambda n: seconds_per_evaluation(loaded.pipeline, n, side))


def _room_beside(loaded: LoadedModel) -> bool:
    """Whether memory has room for twice a loaded model."""
    networks = [x for x in loaded.pipeline.components.values() if isinstance(x, torch.nn.Module)]
    held = sum(p.numel() * p.element_size() for x in networks for p in x.parameters())
    device = loaded.pipeline.unet.device
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return free > 2 * held


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


#: Bytes of features per image: Inception's 2048 numbers, CLIP-g's 1024, latents of 512x512, room.
FEATURES = 49152


def bytes_needed(plans: list[ModelPlan], keep_images: bool, out: Path) -> tuple[int, int]:
    """A generous guess of the disk still to fill, in ``out`` and in the cache."""
    here = cached = 0
    for cell in (c for p in plans for c in p.cells if c.skip is None):
        kept = keep_images or cell.role in ("reference", "source")
        whole = cell.cell.images * (3 * cell.cell.resolution**2 * kept + FEATURES)
        folder = cell_folder(out, cell.role, cell.key)
        left = max(0, whole - sum(f.stat().st_size for f in folder.glob("shard-*")))
        here, cached = (here + left, cached) if cell.role == "candidate" else (here, cached + left)
    return here + sum(p.text_bytes for p in plans), cached
