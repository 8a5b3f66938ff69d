"""What a measurement of negative prompts is asked, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sunbench import registry
from sunbench.errors import UserError
from sunbench.metrics import Estimate


@dataclass(frozen=True)
class NegativesRequest:
    """What to measure; the reference sampler (25-step DPM-Solver++ with CFG) is always there."""

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
    batch: int = 64
    weights: Mapping[str, str] = field(default_factory=dict)  # as for a run

    def __post_init__(self) -> None:
        for name in self.methods:
            registry.method_entry(name)
        registry.check_weights(self.weights, self.methods)
        if not self.models or not self.methods or not self.steps or min(self.steps) < 1:
            raise UserError("given no models, methods or steps, expected some of each")
        if not self.seeds or self.images % len(self.seeds) or self.images < 2 * len(self.seeds):
            raise UserError(
                f"given {self.images} images of {len(self.seeds)} seeds, expected a multiple, of"
                " 2 prompts or more"
            )


@dataclass(frozen=True)
class NegativeRow:
    """How far one measure of one sort of concept falls, for a method; or why it has none.

    without, named: its mean without a negative and with the concept in it. fall, absent: means of
    the paired differences under the concept's name and under an absent one's. kept: this fall as
    a share of the reference's.
    """

    model: str
    method: str
    steps: int
    kind: str
    measure: str
    nfe: float | None = None
    without: float | None = None
    named: float | None = None
    fall: Estimate | None = None
    absent: Estimate | None = None
    kept: Estimate | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Shown:
    """Pictures for the sheet: a method's, without and with the negative, (k, 3, H, W) uint8."""

    label: str
    without: Tensor
    named: Tensor


@dataclass(frozen=True)
class Negatives:
    """One model's measurement."""

    model: str
    weights: dict[str, str]
    prompts: str
    images: int
    rows: list[NegativeRow]
    shown: list[Shown]
    captions: list[tuple[str, str]]  # prompt and concept of each picture shown
