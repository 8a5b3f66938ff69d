"""Fits without a loop: warm-up batches of a base, and a table per number of steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sunbench.methods.common.fitted import write_step_tables
from sunbench.methods.common.settings import Guidance
from sunbench.methods.common.students import check_guidance_input
from sunbench.methods.common.trainees import about_weights
from sunbench.methods.common.training import TrainingJob
from sunbench.sampling import ImageId, SampleBatch, latent_shape, make_batch
from sunbench.training import LoopSettings
from sunbench.training.encode import encode_texts
from sunbench.training.record import Cost, record_cost
from sunbench.training.settings import TrainingSettings, within
from sunbench.training.workers import workers

log = logging.getLogger(__name__)

#: Numbers of steps that are fitted where nothing else is asked.
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)


@dataclass(frozen=True)
class FittingSettings(TrainingSettings):
    """What every fit can be told; of ``[loop]`` the batch and the seed count, steps where it says.

    steps: the numbers of steps that get a table; images: of the warm-up.
    """

    steps: tuple[int, ...] = STEPS
    images: int = 256
    guidance_scale: float | None = None  # the card's by default
    sheet: int = 0
    loop: LoopSettings = field(default=LoopSettings(steps=1, batch=32, dtype="float32"))

    def __post_init__(self) -> None:
        super().__post_init__()
        within("images", self.images, 1, 10**6)
        within("a number of steps", len(self.steps), 1, 1000)
        for n in self.steps:
            within("steps", n, 1, 1000)
        if self.guidance_scale is not None:
            check_guidance_input(self.guidance_scale)

    def guidance(self, card_scale: float) -> Guidance:
        """One scale."""
        return Guidance.one(self.guidance_scale, card_scale)


def warm_up(job: TrainingJob, images: int, name: str = "warm-up") -> Iterator[SampleBatch]:
    """Batches of captions that the base is trained on, with noise of their own.

    name: of the images; other names have other noise and captions.
    """
    loop, size = job.settings.loop, job.loaded.card.resolution
    drawn = torch.Generator().manual_seed(loop.seed * 1_000_003 + sum(name.encode()))
    for first in range(0, images, loop.batch):
        n = min(loop.batch, images - first)
        texts = encode_texts(job.pipeline, job.data.draw(n, drawn)[1]).cpu()
        ids = [ImageId(f"{name}-{first + i}", loop.seed) for i in range(n)]
        empty = job.teacher.empty.cpu().expand_as(texts)
        yield make_batch(ids, texts, empty, latent_shape(job.pipeline, size))


def fit_tables(job: TrainingJob, fitted: Callable[[], dict[int, Tensor]]) -> Path:
    """Run a fit and write its tables, ``OUT/METHOD.safetensors``, with training.json beside them.

    What is written already for the same settings is kept.
    """
    s, path = job.settings, job.out / f"{job.method}.safetensors"
    document = job.begin({})
    if path.is_file() or not workers().first:
        return path
    began = time.monotonic()
    tables = fitted()
    write_step_tables(path, tables, about_weights(document, job.guidance.low))
    numbers = sum(x.numel() for x in tables.values())
    cost = Cost(1, s.images, round(time.monotonic() - began, 3), numbers)
    record_cost(job.out, cost, s.loop)
    log.info("%s: %s numbers of steps, %s", job.method, len(tables), asdict(cost))
    return path
