"""A cell: one row of one table, and the content that makes its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers

from sunbench.store.layout import CellLayout

#: Prompts of a shard. It divides the round numbers that people ask for, so that a run over more
#: prompts finds whole shards of a smaller one.
SHARD_SIZE = 250

#: Changes whenever the images of an unchanged cell would change.
VERSION = 3


@dataclass(frozen=True)
class Cell:
    """(model, method, steps, task, prompt set, seeds, size, guidance, dtype).

    Image ``i`` shows prompt ``i // len(seeds)`` with seed ``seeds[i % len(seeds)]``.
    task_content: what the task adds to the images' making: sources by hash, strength, mask.
    """

    model: str
    weights: tuple[tuple[str, str], ...]  # component -> sha256
    method: str
    method_content: tuple[tuple[str, Any], ...]
    steps: int
    guidance_scale: float
    task: str
    prompts: str
    prompts_hash: str
    n_prompts: int
    seeds: tuple[int, ...]
    resolution: int
    dtype: str
    task_content: tuple[tuple[str, Any], ...] = ()
    batch: int = 0  # kept out of the key: batches do not change an image beyond tolerance

    @property
    def layout(self) -> CellLayout:
        """Which images lie in which shard."""
        return CellLayout(self.n_prompts, len(self.seeds), SHARD_SIZE)

    @property
    def images(self) -> int:
        """How many images the cell holds."""
        return self.layout.images

    @property
    def shards(self) -> int:
        """How many shards they fill."""
        return self.layout.shards

    def shard(self, k: int) -> range:
        """Image indices of shard k: a block of prompts at one seed."""
        return self.layout.shard(k)

    @property
    def strength(self) -> float:
        """Share of the noise schedule that is run: 1 starts from pure noise."""
        return float(dict(self.task_content).get("strength", 1.0))

    def content(self) -> dict[str, object]:
        """All that shapes the cell's images, JSON-able; its hash is the cell's key."""
        more = {"task_settings": dict(self.task_content)} if self.task_content else {}
        return {
            "version": VERSION,
            "diffusers": diffusers.__version__,
            "model": self.model,
            "weights": dict(self.weights),
            "method": self.method,
            "settings": dict(self.method_content),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "task": self.task,
            **more,
            "prompts": {"name": self.prompts, "hash": self.prompts_hash, "n": self.n_prompts},
            "seeds": list(self.seeds),
            "resolution": self.resolution,
            "dtype": self.dtype,
            "shard_size": SHARD_SIZE,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Cell:
        """The cell that has this content, of the same versions; the inverse of `content`."""
        prompts = content["prompts"]
        return cls(
            model=content["model"],
            weights=tuple(sorted(content["weights"].items())),
            method=content["method"],
            method_content=tuple(sorted(content["settings"].items())),
            steps=content["steps"],
            guidance_scale=content["guidance_scale"],
            task=content["task"],
            prompts=prompts["name"],
            prompts_hash=prompts["hash"],
            n_prompts=prompts["n"],
            seeds=tuple(content["seeds"]),
            resolution=content["resolution"],
            dtype=content["dtype"],
            task_content=tuple(sorted(content.get("task_settings", {}).items())),
        )

    @property
    def label(self) -> str:
        """For people: model, method and steps, and the task where it is another than usual."""
        name = f"{self.model} · {self.method} · {self.steps} steps"
        return name if self.task == "text2image" else f"{name} · {self.task}"
