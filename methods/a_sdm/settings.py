"""How assembled U-Nets are trained: A-SDM's values by default, BK-SDM's where it says nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from sunbench.methods.bk_sdm.settings import LOOP, PrunedTraining
from sunbench.training import LoopSettings
from sunbench.training.settings import one_of, within

#: Where a part that belongs to no stage comes from: the model's own U-Net or the trained Base.
SOURCES = ("sd", "base")
#: BK-SDM's, longer and of 512 images per update.
ASSEMBLED_LOOP = replace(LOOP, steps=100_000, accumulate=8)


@dataclass(frozen=True)
class AssembledTraining(PrunedTraining):
    """A-SDM: Base as in BK-SDM, then 100,000 updates of batch 512 on the assembled network.

    incubation_steps, incubation_accumulate: of the first stage, which trains Base. mid_from,
    edges_from, time_from: where the mid block, the convolutions at both ends (with the last norm)
    and the time embedding come from, which the paper leaves out; what comes from "sd" is frozen
    in M1 to M3. The optimizer, its rate and the losses' weights are BK-SDM's.
    """

    incubation_steps: int = 50_000
    incubation_accumulate: int = 4
    mid_from: str = "sd"
    edges_from: str = "base"
    time_from: str = "sd"
    loop: LoopSettings = ASSEMBLED_LOOP

    def __post_init__(self) -> None:
        super().__post_init__()
        within("incubation_steps", self.incubation_steps, 1, 10**9)
        within("incubation_accumulate", self.incubation_accumulate, 1, 10**9)
        for name in ("mid_from", "edges_from", "time_from"):
            one_of(name, getattr(self, name), SOURCES)

    @property
    def incubation_loop(self) -> LoopSettings:
        """The first stage's."""
        own = {"steps": self.incubation_steps, "accumulate": self.incubation_accumulate}
        return LoopSettings.from_table({**asdict(self.loop), **own})
