"""From a cell and a run of indices to images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sunbench.errors import NotFinite
from sunbench.models.protocols import Pipeline
from sunbench.sampling.batch import ImageId, SampleBatch, TaskInputs, make_batch, noise_hash
from sunbench.sampling.cell import Cell
from sunbench.sampling.method import Method, Sampler, SampleSettings
from sunbench.sampling.pipeline import decode_latents, latent_shape
from sunbench.sampling.stopwatch import Stopwatch


@dataclass(frozen=True)
class Generated:
    """B images of a cell: uint8 (B, 3, H, W), final latents float16, noise hashes, and cost."""

    images: Tensor
    latents: Tensor
    noise_hashes: list[str]
    nfe: float
    sample_seconds: float
    decode_seconds: float


def generate(
    cell: Cell,
    pipeline: Pipeline,
    sampler: Sampler,
    prompts: Sequence[Any],
    indices: range,
    texts: dict[str, Tensor],
    inputs: TaskInputs | None = None,
) -> Generated:
    """Sample the images of ``indices``; ``prompts`` are the rows of the whole set.

    inputs: the sources of these images, for tasks that have some.
    """
    n = len(cell.seeds)
    rows = [prompts[i // n] for i in indices]
    ids = [ImageId(p.id, cell.seeds[i % n]) for p, i in zip(rows, indices, strict=True)]
    batch = make_batch(
        ids,
        torch.stack([texts[p.text] for p in rows]),
        torch.stack([texts[p.negative] for p in rows]),
        latent_shape(pipeline, cell.resolution),
        inputs,
    )
    stopwatch = Stopwatch(pipeline.unet.device)
    hashes = [noise_hash(z) for z in batch.latents]
    began = stopwatch.mark()
    latents = sampler.sample(batch)
    sampled = stopwatch.mark()
    try:
        images = decode_latents(pipeline, latents)
    except NotFinite as error:
        raise NotFinite(f"{cell.label}: {error}") from error
    decoded = stopwatch.mark()
    kept = latents.half().cpu()  # after this copy all marks have been reached
    times = began.until(sampled), sampled.until(decoded)
    return Generated(images, kept, hashes, sampler.nfe, *times)


def sample_images(
    pipeline: Pipeline, method: Method, settings: SampleSettings, batch: SampleBatch
) -> Tensor:
    """Images (B, 3, H, W) uint8 of one batch by a method, with the pipeline as before after it.

    For what is no cell: previews of a training, and a method on somebody's own pipeline.
    """
    try:
        return decode_latents(pipeline, method.prepare(pipeline, settings).sample(batch))
    finally:
        method.release(pipeline)
