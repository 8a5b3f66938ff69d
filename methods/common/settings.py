"""What the settings of several trainings share: guidance scales, forms of files, LoRA ranks.

Guidance is the user's everywhere: g of e_n + g (e_p - e_n), which is 1 + w in LCM's and
Guided-Distill's papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.students import check_guidance_input
from sunbench.training.settings import TrainingSettings, asked, from_table, within

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
        check_guidance_input(self.low)
        within("guidance_max", self.high, self.low, float("inf"))

    @classmethod
    def one(cls, scale: float | None, card_scale: float) -> Self:
        """One scale: the settings', by default the card's."""
        chosen = card_scale if scale is None else scale
        return cls(chosen, chosen)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n scales (n,), uniform."""
        return self.low + (self.high - self.low) * torch.rand(n, generator=generator)

    @property
    def single(self) -> float | None:
        """The one scale, None for a range."""
        return self.low if self.low == self.high else None


def check_range(low: float | None, high: float | None) -> None:
    """Raise UserError unless these are the ends of a range of guidance scales."""
    if low is None or high is None:
        raise UserError(
            f"given guidance_min = {low} and guidance_max = {high}, expected both or none"
        )
    Guidance(low, high)


def check_rank(rank: int, alpha: float | None) -> None:
    """Raise UserError unless a LoRA can have them."""
    within("rank", rank, 1, 4096)
    if alpha is not None:
        within("alpha", alpha, 1e-6, float("inf"))


SettingsT = TypeVar("SettingsT", bound=TrainingSettings)


def settings_for(method: str, cls: type[SettingsT], config: Path | None, *, zoo: bool) -> SettingsT:
    """A file's settings over the recipe for a model of the zoo, over the paper's for any other."""
    table = asked(method, config, zoo=zoo)
    settings: SettingsT = from_table(cls, table, f"{method} training setting")
    return settings
