"""What a study of negative prompts is asked, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from sunbench.bench.request import Request
from sunbench.metrics import Estimate


@dataclass(frozen=True)
class NegativesRequest:
    """What to measure; the reference sampler (25-step DPM-Solver++ with CFG) is always there.

    Checked as a run's request is. weights: METHOD or METHOD@MODEL -> the weights that a method
    uses there.
    """

    models: tuple[str, ...]
    methods: tuple[str, ...]
    steps: tuple[int, ...]
    images: int = 200
    seeds: tuple[int, ...] = (0,)
    prompts: str | None = None
    column: str | None = None
    guidance_scale: float | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int | Literal["auto"] = 64
    weights: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Request(
            models=self.models,
            methods=self.methods,
            steps=self.steps,
            images=self.images,
            seeds=self.seeds,
            guidance_scale=self.guidance_scale,
            dtype=self.dtype,
            batch=self.batch,
            weights=self.weights,
        )


@dataclass(frozen=True)
class NegativeRow:
    """How one measure of one sort of concept changes under negative prompts, for one method.

    baseline, negated: its mean without a negative prompt and with one that names the concept.
    change: mean of the paired differences, negated minus baseline; absent: the same under an
    absent concept's name. relative: change over the reference's, of which 1 is right: below it the
    concept stays, above it the method overshoots. reason: why there are no numbers.
    """

    model: str
    method: str
    steps: int
    kind: str
    measure: str
    nfe: float | None = None
    baseline: float | None = None
    negated: float | None = None
    change: Estimate | None = None
    absent: Estimate | None = None
    relative: Estimate | None = None
    reason: str | None = None

    @property
    def off(self) -> float | None:
        """How far the change is from the reference's, in units of it."""
        return None if self.relative is None else abs(self.relative.value - 1)


@dataclass(frozen=True)
class SheetColumn:
    """Images of a method for the sheet, without and with the negative: (k, 3, H, W) uint8."""

    label: str
    baseline: Tensor
    negated: Tensor


@dataclass(frozen=True)
class Negatives:
    """One model's measurement; captions: prompt and concept of each image of the sheet."""

    model: str
    weights: dict[str, str]
    prompts: str
    images: int
    rows: list[NegativeRow]
    columns: list[SheetColumn]
    captions: list[tuple[str, str]]
