"""How BoostDiff is trained: its paper's values by default, the zoo's in recipes."""

from __future__ import annotations

from dataclasses import dataclass, field

from sunbench.methods.common.settings import ADAM, WEIGHTS, Guidance, check_rank
from sunbench.methods.common.students import check_guidance_input
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings, one_of


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
        check_guidance_input(self.guidance_scale)
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
        check_rank(self.rank, self.alpha)
