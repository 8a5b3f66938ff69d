"""How LCM and LCM-LoRA are trained: their papers' values by default, the zoo's in recipes."""

from __future__ import annotations

from dataclasses import dataclass, field

from sunbench.errors import UserError
from sunbench.methods.common.deltas import LEVELS, check_levels
from sunbench.methods.common.settings import (
    ADAM,
    FORMS,
    TIMESTEPS,
    Guidance,
    check_range,
    check_rank,
)
from sunbench.methods.common.students import check_guidance_input
from sunbench.methods.lcm.method import GRID
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings, one_of, within

LOSSES = ("l2", "huber")
TARGETS = ("ema", "student")


def _check_skip(k: int) -> None:
    most = TIMESTEPS // GRID
    if k < 1 or most % k:
        raise UserError(
            f"given k = {k}, expected a divisor of {most}: the {GRID} steps of LCM's sampler must"
            " lie on the distillation's grid"
        )


@dataclass(frozen=True)
class LcmTraining(TrainingSettings):
    """LCM (arXiv 2310.04378, Alg. 1): 100k steps of batch 72, w in 2..14, k = 20, l2."""

    k: int = 20  # the skipping step: timesteps between a point and its target's
    guidance_min: float = 3.0
    guidance_max: float = 15.0
    loss: str = "l2"
    huber_c: float = 0.001  # of the pseudo-Huber loss
    target: str = "ema"  # who answers at the target: the average of [loop] ema, or the student
    form: str = "whole"  # of the student's file
    levels: int = LEVELS  # of weight deltas
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=100_000,
            batch=72,
            learning_rate=8e-6,
            weight_decay=0.0,
            warmup=0,
            decay=0.0,
            betas=ADAM,
            ema=0.999943,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_skip(self.k)
        check_range(self.guidance_min, self.guidance_max)
        one_of("loss", self.loss, LOSSES)
        one_of("target", self.target, TARGETS)
        one_of("form", self.form, FORMS)
        check_levels(self.levels)
        within("huber_c", self.huber_c, 1e-8, float("inf"))

    def guidance(self, card_scale: float) -> Guidance:
        """A range, whatever the card says."""
        return Guidance(self.guidance_min, self.guidance_max)


@dataclass(frozen=True)
class LcmLoraTraining(TrainingSettings):
    """LCM-LoRA (arXiv 2311.05556), with the values of its published script's example.

    One guidance scale, the card's by default, or a range that the LoRA averages over.
    """

    k: int = 20
    guidance_scale: float | None = None
    guidance_min: float | None = None
    guidance_max: float | None = None
    loss: str = "huber"
    huber_c: float = 0.001
    rank: int = 64
    alpha: float | None = None  # the rank by default: the LoRA enters as it is
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=1000,
            batch=12,
            learning_rate=1e-4,
            weight_decay=0.0,
            warmup=0,
            decay=0.0,
            betas=ADAM,
            ema=0.95,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_skip(self.k)
        one_of("loss", self.loss, LOSSES)
        within("huber_c", self.huber_c, 1e-8, float("inf"))
        check_rank(self.rank, self.alpha)
        ends = (self.guidance_min, self.guidance_max)
        if ends != (None, None):
            check_range(*ends)
        if ends != (None, None) and self.guidance_scale is not None:
            raise UserError("given guidance_scale and guidance_min, expected one of them")
        if self.guidance_scale is not None:
            check_guidance_input(self.guidance_scale)

    def guidance(self, card_scale: float) -> Guidance:
        """The range where one is given, else one scale."""
        if self.guidance_min is not None and self.guidance_max is not None:
            return Guidance(self.guidance_min, self.guidance_max)
        return Guidance.one(self.guidance_scale, card_scale)
