"""How the distilled methods are trained: their papers' values by default, the zoo's in recipes.

Guidance is the user's everywhere: g of e_n + g (e_p - e_n), which is 1 + w in LCM's and
Guided-Distill's papers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.differences import LEVELS, check_levels
from sunbench.methods.lcm import GRID
from sunbench.methods.students import check_guidance
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings, asked, from_table, one_of, within

LOSSES = ("l2", "huber")
TARGETS = ("ema", "student")
#: A student's file: a diffusers U-Net, or differences to the base's (``differences``).
FORMS = ("whole", "difference")
#: Weights of the squared error of the noise; see ``losses.weight``.
WEIGHTS = ("constant", "snr", "snr_trunc", "v")
TIMESTEPS = 1000
ADAM = (0.9, 0.999)


@dataclass(frozen=True)
class Guidance:
    """The guidance scales that a student learns: one, or all from low to high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        check_guidance(self.low)
        within("guidance_max", self.high, self.low, float("inf"))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n scales (n,), uniform."""
        return self.low + (self.high - self.low) * torch.rand(n, generator=generator)

    @property
    def single(self) -> float | None:
        """The one scale, None for a range."""
        return self.low if self.low == self.high else None


def _check_range(low: float | None, high: float | None) -> None:
    if low is None or high is None:
        raise UserError(
            f"given guidance_min = {low} and guidance_max = {high}, expected both or none"
        )
    Guidance(low, high)


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
    levels: int = LEVELS  # of a difference
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
        _check_range(self.guidance_min, self.guidance_max)
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
        _check_rank(self.rank, self.alpha)
        ends = (self.guidance_min, self.guidance_max)
        if ends != (None, None):
            _check_range(*ends)
        if ends != (None, None) and self.guidance_scale is not None:
            raise UserError("given guidance_scale and guidance_min, expected one of them")
        if self.guidance_scale is not None:
            check_guidance(self.guidance_scale)

    def guidance(self, card_scale: float) -> Guidance:
        """The range where one is given, else one scale."""
        if self.guidance_min is not None and self.guidance_max is not None:
            return Guidance(self.guidance_min, self.guidance_max)
        scale = card_scale if self.guidance_scale is None else self.guidance_scale
        return Guidance(scale, scale)


def _check_rank(rank: int, alpha: float | None) -> None:
    within("rank", rank, 1, 4096)
    if alpha is not None:
        within("alpha", alpha, 1e-6, float("inf"))


@dataclass(frozen=True)
class GuidedTraining(TrainingSettings):
    """Guided-Distill (arXiv 2210.03142): ``[loop]`` is stage 1's, its length apart stage 2's too.

    3000 updates of batch 512, then 2000 a halving, 20000 at 4, 2 and 1 steps; w in 2..14. The
    paper's rate is not known to us; the base here predicts noise, so errors are weighted by
    snr_trunc.
    """

    guidance_min: float = 3.0
    guidance_max: float = 15.0
    weight: str = "snr_trunc"
    rounds: tuple[int, ...] = (32, 16, 8, 4, 2, 1)  # steps of the students of stage 2, in order
    round_steps: int = 2000  # updates of a round
    last_steps: int = 20_000  # of a round for few_steps or fewer
    few_steps: int = 4
    form: str = "whole"  # of the students' files
    levels: int = LEVELS  # of differences
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=3000, batch=512, learning_rate=1e-4, warmup=0, decay=0.0, betas=ADAM
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self.guidance_min, self.guidance_max)
        one_of("weight", self.weight, WEIGHTS)
        one_of("form", self.form, FORMS)
        check_levels(self.levels)
        within("round_steps", self.round_steps, 1, float("inf"))
        within("last_steps", self.last_steps, 1, float("inf"))
        for steps in self.rounds:
            within("rounds", steps, 1, TIMESTEPS // 2)
        if len(set(self.rounds)) != len(self.rounds):
            raise UserError(f"given rounds = {list(self.rounds)}, expected each once")

    def guidance(self, card_scale: float) -> Guidance:
        """A range, whatever the card says."""
        return Guidance(self.guidance_min, self.guidance_max)

    def teachers(self) -> dict[int, int | None]:
        """Round -> the round whose student teaches it, None for stage 1's.

        A round teaches the next one where that has half of its steps; another number of steps
        begins at stage 1 again, which can take any.
        """
        pairs = pairwise((0, *self.rounds))
        return {n: before if before == 2 * n else None for before, n in pairs}

    def round_loop(self, steps: int) -> LoopSettings:
        """The loop of a round."""
        length = self.last_steps if steps <= self.few_steps else self.round_steps
        return LoopSettings.from_table({**asdict(self.loop), "steps": length})


@dataclass(frozen=True)
class BoostTraining(TrainingSettings):
    """BoostDiff: 1600 updates of batch 512 at 5e-5, one guidance scale, error of x_0."""

    guidance_scale: float = 3.0
    weight: str = "constant"
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=1600, batch=512, learning_rate=5e-5, warmup=0, decay=0.0, betas=ADAM
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_guidance(self.guidance_scale)
        one_of("weight", self.weight, WEIGHTS)

    def guidance(self, card_scale: float) -> Guidance:
        """One scale, whatever the card says."""
        return Guidance(self.guidance_scale, self.guidance_scale)


@dataclass(frozen=True)
class BoostLoraTraining(BoostTraining):
    """BoostDiff's LoRA: rank 8; the paper leaves alpha out, the rank is taken."""

    rank: int = 8
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rank(self.rank, self.alpha)


SettingsT = TypeVar("SettingsT", bound=TrainingSettings)


def settings_for(method: str, cls: type[SettingsT], config: Path | None, *, zoo: bool) -> SettingsT:
    """A file's settings over the recipe for a model of the zoo, over the paper's for any other."""
    table = asked(method, config, zoo=zoo)
    made: SettingsT = from_table(cls, table, f"{method} training setting")
    return made
