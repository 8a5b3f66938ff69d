"""What a run found, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from sunbench.store import FiniteNRow, PairRow, ResultRow, SetPairRow, TrainingRequirements
from sunbench.store.timings import TimingRow


@dataclass
class Outcome:
    """The numbers of a run, images that are all black, and shards that had to be made."""

    rows: list[ResultRow] = field(default_factory=list)
    pairs: list[PairRow] = field(default_factory=list)
    set_pairs: list[SetPairRow] = field(default_factory=list)
    finite_n: list[FiniteNRow] = field(default_factory=list)
    times: list[TimingRow] = field(default_factory=list)
    requirements: list[TrainingRequirements] = field(default_factory=list)
    black: int = 0
    new_shards: int = 0
