"""From a cell and a run of indices to pictures."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunbench.sampling.batch import ImageId, make_batch, noise_hash
from sunbench.sampling.cell import Cell
from sunbench.sampling.method import Sampler
from sunbench.sampling.pipeline import decode, latent_shape
from sunbench.sampling.task import Given


class TextCache:
    """Embeddings of texts, encoded once a block and kept on disk, so that memory stays flat."""

    def __init__(self, pipeline: Any, folder: Path) -> None:
        self.pipeline, self.folder, self.seconds = pipeline, folder, 0.0
        self._recent: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        device = self.pipeline.text_encoder.device
        parts = [
            self.pipeline.encode_prompt(texts[i : i + 64], device, 1, False)[0].cpu()
            for i in range(0, len(texts), 64)
        ]
        return torch.cat(parts)

    def block(self, name: str, texts: list[str]) -> dict[str, Tensor]:
        """Embeddings (tokens, width) by text, of the texts of one shard; ``name`` is its key."""
        if name not in self._recent:
            distinct = sorted(set(texts))
            file = self.folder / f"{name}.safetensors"
            if file.exists():
                table = load_file(file)["embeddings"]
            else:
                began = time.perf_counter()
                table = self._encode(distinct)
                self.seconds += time.perf_counter() - began
                part = file.with_suffix(".part")
                save_file({"embeddings": table.contiguous()}, part)
                part.replace(file)
            self._recent[name] = dict(zip(distinct, table, strict=True))
            while len(self._recent) > 2:
                self._recent.popitem(last=False)
        return self._recent[name]


@dataclass(frozen=True)
class Generated:
    """B pictures of a cell: uint8 (B, 3, H, W), the fingerprints of their noise, and their cost."""

    images: Tensor
    noise_hashes: list[str]
    nfe: float
    unet_seconds: float
    sample_seconds: float
    decode_seconds: float


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def generate(
    cell: Cell,
    pipeline: Any,
    sampler: Sampler,
    prompts: Sequence[Any],
    indices: range,
    texts: dict[str, Tensor],
    given: Given | None = None,
) -> Generated:
    """Sample the images of ``indices``; ``prompts`` are the rows of the whole set.

    given: the sources of these images, for tasks that have some.
    """
    n = len(cell.seeds)
    rows = [prompts[i // n] for i in indices]
    images = [ImageId(p.id, cell.seeds[i % n]) for p, i in zip(rows, indices, strict=True)]
    batch = make_batch(
        images,
        torch.stack([texts[p.text] for p in rows]),
        torch.stack([texts[p.negative] for p in rows]),
        latent_shape(pipeline, cell.resolution),
        given,
    )
    device = pipeline.unet.device
    hashes = [noise_hash(z) for z in batch.latents]
    began = _now(device)
    latents = sampler.sample(batch)
    sampled = _now(device)
    pictures = decode(pipeline, latents)
    done = _now(device)
    return Generated(
        pictures, hashes, sampler.nfe, sampler.unet_seconds, sampled - began, done - sampled
    )
