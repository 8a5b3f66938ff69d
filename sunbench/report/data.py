"""What a finished run says, read once and checked: latencies, win rates, training requirements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from sunbench.store import (
    FiniteNRow,
    PairRow,
    ResultRow,
    RunFolder,
    SetPairRow,
    TrainingRequirements,
)
from sunbench.store.timings import TimingRow, spread

#: A speed-up may exceed the ratio of NFE by this share before it is flagged.
NFE_TOLERANCE = 0.05
#: How the roles of cells that are no method's are printed.
ROLE_NAMES = {"reference": "reference", "floor": "reference (other seeds)", "source": "source"}


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast as the reference, end to end and in the U-Net; flag: why in doubt."""

    end_to_end: float
    unet: float | None
    flag: str = ""


@dataclass(frozen=True)
class CellTime:
    """Median seconds per part of one image at batch 1, from the run's timing pass.

    flags: why they are not to be trusted. gain: the speed-up from ratios within the rounds of the
    pass; None to compute it from the medians. whole_ms, quartiles_ms: median and quartiles of the
    latency over the rounds; without the median it is the sum of those of the parts. cheaper_passes:
    whether the ratio of NFE is no ceiling of the speed-up.
    """

    model: str
    method: str
    role: str
    steps: int
    nfe: float
    unet_seconds: float
    sample_seconds: float
    decode_seconds: float
    text_seconds: float = 0.0
    flags: tuple[str, ...] = ()
    gain: SpeedUp | None = None
    whole_ms: float | None = None
    quartiles_ms: tuple[float, float] | None = None
    cheaper_passes: bool = False

    @classmethod
    def of(cls, row: TimingRow) -> CellTime:
        """The medians of a timing row, with its speed-up and the reasons to doubt it."""
        gain, unet = row.speed_up, row.unet_speed_up
        return cls(
            model=row.model,
            method=row.method,
            role=row.role,
            steps=row.steps,
            nfe=row.nfe,
            unet_seconds=spread(row.unet_seconds).median,
            sample_seconds=spread(row.sampler_seconds).median,
            decode_seconds=spread(row.decoder_seconds).median,
            text_seconds=spread(row.text_seconds).median,
            flags=row.flags,
            gain=gain and SpeedUp(gain.median, unet and unet.median),
            whole_ms=row.latency_ms.median,
            quartiles_ms=row.latency_ms[1:],
            cheaper_passes=row.cheaper_passes,
        )

    @property
    def unet_ms(self) -> float:
        """Milliseconds per image inside the U-Net."""
        return 1000 * self.unet_seconds

    @property
    def latency_ms(self) -> float:
        """Milliseconds per image, end to end: text, sampler and decoder."""
        if self.whole_ms is not None:
            return self.whole_ms
        return 1000 * (self.text_seconds + self.sample_seconds + self.decode_seconds)


@dataclass(frozen=True)
class RunData:
    """The results of a run, typed."""

    rows: list[ResultRow]
    times: tuple[CellTime, ...] = ()
    win_rates: tuple[PairRow, ...] = ()
    requirements: tuple[TrainingRequirements, ...] = ()
    timing: tuple[TimingRow, ...] = ()
    set_pairs: tuple[SetPairRow, ...] = ()
    finite_n: tuple[FiniteNRow, ...] = ()

    def of_model(self, model: str) -> RunData:
        """The part of one model."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        own = {n: [r for r in part if r.model == model] for n, part in parts.items()}
        return RunData(**{n: type(parts[n])(rows) for n, rows in own.items()})


def read_run(run: RunFolder) -> RunData:
    """Results of a finished run; UserError in one line for a missing, broken or wrong document."""
    run.require_finished()
    results = run.read_results_document()
    times = tuple(CellTime.of(row) for row in results.timing if row.batch == 1)
    return RunData(
        list(results.rows),
        times,
        results.pairs,
        results.requirements,
        results.timing,
        results.set_pairs,
        results.finite_n,
    )


# ------------------------------------------------------------------------------ speed-ups


def reference_time(times: Iterable[CellTime], model: str) -> CellTime | None:
    """The time of a model's reference."""
    return next((t for t in times if t.model == model and t.role == "reference"), None)


def speed_up(time: CellTime, reference: CellTime | None) -> SpeedUp | None:
    """The speed-up of one cell with the reasons to doubt it; None where unknown."""
    if reference is None or time.latency_ms <= 0:
        return None
    unet = reference.unet_seconds / time.unet_seconds if time.unet_seconds > 0 else None
    gain = time.gain or SpeedUp(reference.latency_ms / time.latency_ms, unet)
    ratio = reference.nfe / time.nfe if time.nfe > 0 else math.inf
    most = max(gain.end_to_end, gain.unet or 0.0)
    reasons = [*time.flags]
    above = most > ratio * (1 + NFE_TOLERANCE) and not time.cheaper_passes
    if above and not any("NFE" in f for f in reasons):
        reasons.append(f"{most:.2f}x is above the ratio of NFE, {ratio:.2f}")
    return replace(gain, flag="; ".join(reasons))


def printed_name(row: ResultRow) -> str:
    """A row's method as tables print it: the role's name for what is no candidate."""
    return ROLE_NAMES.get(row.role, row.method)


def model_names(rows: Iterable[ResultRow]) -> list[str]:
    """Models in the order of the run."""
    return list(dict.fromkeys(r.model for r in rows))


def floor_value(rows: Sequence[ResultRow], model: str, metric: str) -> float | None:
    """The distance of the reference to itself with other seeds, where it was measured."""
    own = (r for r in rows if (r.model, r.metric) == (model, metric) and r.role == "floor")
    return next((r.value for r in own), None)
