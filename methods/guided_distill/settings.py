"""How Guided-Distill is trained: its paper's values by default, the zoo's in recipes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise

from sunbench.errors import UserError
from sunbench.methods.common.deltas import LEVELS, check_levels
from sunbench.methods.common.settings import ADAM, FORMS, TIMESTEPS, WEIGHTS, Guidance, check_range
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings, one_of, within


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
    levels: int = LEVELS  # of weight deltas
    loop: LoopSettings = field(
        default=LoopSettings(
            steps=3000, batch=512, learning_rate=1e-4, warmup=0, decay=0.0, betas=ADAM
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.guidance_min, self.guidance_max)
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
