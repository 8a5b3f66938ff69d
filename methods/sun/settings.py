"""How SUN is trained: the paper's values (section 4.1) where it gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.settings import Guidance
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings, asked, from_table, one_of, within

TIMES = ("continuous", "grid")

#: AdamW at a constant 1e-4 with weight decay 0.01, 5k steps of batch 32; the paper names no betas
#: (diffusers' are taken), no clipping and no averaging.
LOOP = LoopSettings(
    steps=5000,
    batch=32,
    learning_rate=1e-4,
    weight_decay=0.01,
    warmup=0,
    decay=0.0,
    betas=(0.9, 0.999),
)


@dataclass(frozen=True)
class SunTraining(TrainingSettings):
    """Every setting of a SUN training; in a file, these as keys and the loop's in ``[loop]``."""

    delta: float = 0.25  # length of a student's step, of the whole time 1
    substeps: int = 6  # N: teacher's steps in it; 4 stages of 6 are near the reference's 25
    guidance_scale: float | None = None  # w; the card's by default, 8 for Stable Diffusion
    l_cfg: bool = True  # Eq. 8
    l_step: bool = True  # Eq. 11, and with it the replacement
    p: float = 0.1  # how often the student's own x_t replaces the teacher's (Eq. 13); 0: never
    lam: float = 1.0  # weight of L_msc beside L_cfg (Eq. 14); for L_msc alone, l_cfg = false
    pool: int | None = None  # micro-batches taken in turn, their targets computed once; none: new
    times: str = "continuous"  # t in [t_min, 1]; "grid": 1, 1 - delta, ... only
    t_min: float | None = None  # delta by default; below it the stage ends at 0
    max_phrases: int | None = None  # of a negative prompt: 100, in the zoo 4
    phrases: str = ""  # file of negative phrases, one per line, in place of the built-in ones
    empty_negatives: float = 0.0  # share of negative prompts made empty beyond those drawn so
    add_pos: bool = True  # the released form; false is the paper's
    norm: str = "sample"
    init: str = "copy"
    alpha0: float | None = None  # of both branches; 1 with add_pos, 0 (the base itself) without
    loop: LoopSettings = field(default=LOOP)

    def __post_init__(self) -> None:
        super().__post_init__()
        within("delta", self.delta, 0.001, 1)
        within("substeps", self.substeps, 1, 1000)
        within("p", self.p, 0, 1)
        within("lam", self.lam, 0, 1e6)
        if self.pool is not None:
            within("pool", self.pool, 1, 10**6)
        if self.alpha0 is not None:
            within("alpha0", self.alpha0, -100, 100)
        if self.pool and self.p:
            raise UserError(
                f"given pool = {self.pool} and p = {self.p:g}, expected p = 0: the replacement is"
                " the student's own, so targets with it cannot be kept"
            )
        within("empty_negatives", self.empty_negatives, 0, 1)
        within("t_min", self.earliest, 0.001, 1)
        for name, most in (("max_phrases", float("inf")), ("guidance_scale", 1000)):
            if getattr(self, name) is not None:
                within(name, getattr(self, name), 0, most)
        one_of("times", self.times, TIMES)
        if not (self.l_cfg or self.l_step):
            raise UserError("given l_cfg = false and l_step = false, expected one of them")
        if self.substeps > 1000 * min(self.delta, self.earliest):
            raise UserError(
                f"given {self.substeps} substeps in {min(self.delta, self.earliest):g} of the time,"
                " expected at most one per timestep of 1000"
            )

    def guidance(self, card_scale: float) -> Guidance:
        """One scale: the teacher's, which the adapter stands for."""
        return Guidance.one(self.guidance_scale, card_scale)

    @property
    def earliest(self) -> float:
        """The smallest t that is drawn."""
        return self.delta if self.t_min is None else self.t_min

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """n times t in 0..1, float32."""
        u = torch.rand(n, generator=generator)
        if self.times == "continuous":
            return 1 - u * (1 - self.earliest)
        stages = max(1, int((1 - self.earliest) / self.delta + 1e-6) + 1)
        return 1 - self.delta * (u * stages).floor()

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> SunTraining:
        """From a TOML table; an unknown key or a value of another kind is an error."""
        settings: SunTraining = from_table(cls, table, "SUN training setting")
        return settings


def read_settings(path: Path | None, *, zoo: bool = False) -> SunTraining:
    """A file's settings over the recipe for a model of the zoo, over the paper's for any other."""
    return SunTraining.from_table(asked("sun", path, zoo=zoo))
