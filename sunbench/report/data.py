"""What a finished run says, read once and checked: latencies, win rates, training requirements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self

from sunbench.errors import UserError
from sunbench.store import ResultRow, RunFolder
from sunbench.store.runs import result_rows
from sunbench.store.timings import TimingRow, spread, timing_rows

#: A speed-up may exceed the ratio of NFE by this share before it is flagged.
NFE_TOLERANCE = 0.05
#: Of the intervals of all differences of one metric together.
LEVEL = 0.95
#: How the roles of cells that are no method's are printed.
ROLE_NAMES = {"reference": "reference", "floor": "reference (other seeds)", "source": "source"}

_KINDS = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "dict": dict,
    "tuple": (list, tuple),
}


class _Record:
    """A dataclass that is read strictly from a parsed JSON object."""

    @classmethod
    def from_json(cls, record: Any, where: str) -> Self:
        """The record; UserError naming ``where`` for a missing or wrongly typed field."""
        if not isinstance(record, Mapping):
            raise UserError(f"{where}: given {type(record).__name__}, expected an object")
        values = {}
        for f in fields(cls):  # type: ignore[arg-type]
            if f.name not in record and f.default is MISSING:
                raise UserError(f"{where}: given no {f.name}, expected {f.type}")
            if f.name in record:
                values[f.name] = _checked(record[f.name], str(f.type), f"{where}, {f.name}")
        return cls(**values)

    @classmethod
    def all_from_json(cls, records: Any, where: str) -> tuple[Self, ...]:
        """The records of a list."""
        if not isinstance(records, list):
            raise UserError(f"{where}: given {type(records).__name__}, expected a list")
        return tuple(cls.from_json(r, f"{where} {i}") for i, r in enumerate(records, 1))


def _checked(value: Any, kind: str, where: str) -> Any:
    wanted, _, optional = kind.partition(" | ")
    wanted = wanted.partition("[")[0]
    if value is None and optional:
        return None
    fits = isinstance(value, _KINDS[wanted]) and (wanted == "bool" or not isinstance(value, bool))
    if not fits or (wanted == "float" and not math.isfinite(value)):
        raise UserError(f"{where}: given {value!r}, expected {kind}")
    return tuple(value) if wanted == "tuple" else value


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
    pass; None to compute it from the medians.
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

    @classmethod
    def of(cls, row: TimingRow) -> CellTime:
        """The medians of a timing row, with its speed-up and the reasons to doubt it."""
        parts = (row.unet_seconds, row.sampler_seconds, row.decoder_seconds, row.text_seconds)
        medians = [spread(seconds).median for seconds in parts]
        gain, unet = row.speed_up, row.unet_speed_up
        speed = gain and SpeedUp(gain.median, None if unet is None else unet.median)
        return cls(row.model, row.method, row.role, row.steps, row.nfe, *medians, row.flags, speed)

    @property
    def unet_ms(self) -> float:
        """Milliseconds per image inside the U-Net."""
        return 1000 * self.unet_seconds

    @property
    def latency_ms(self) -> float:
        """Milliseconds per image, end to end: text, sampler and decoder."""
        return 1000 * (self.text_seconds + self.sample_seconds + self.decode_seconds)


@dataclass(frozen=True)
class WinRate(_Record):
    """On what share of prompts method a is closer to the reference than b, at equal steps.

    difference: of the distances, a minus b, in an interval that holds for all differences of the
    metric together; p_holm: its p-value after Holm's correction; equivalent: shown to be within
    the margin, None without one.
    """

    model: str
    steps: int
    metric: str
    a: str
    b: str
    a_closer: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_holm: float | None = None
    equivalent: bool | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the difference holds after correction; without one, the share's interval."""
        if self.p_holm is not None:
            return self.p_holm < 1 - LEVEL
        return not self.low <= 0.5 <= self.high

    @property
    def verdict(self) -> str:
        """In words: "A closer", "B closer", "equivalent" or "not distinguishable"."""
        if self.equivalent:
            return "equivalent"
        if not self.distinguishable:
            return "not distinguishable"
        if self.difference is not None:
            return "A closer" if self.difference < 0 else "B closer"
        return "A closer" if self.a_closer > 0.5 else "B closer"


@dataclass(frozen=True)
class Requirements(_Record):
    """What a method needs beside a model; None for what is not known."""

    model: str
    method: str
    training: str | None = None
    negative_prompts: bool | None = None
    base: str | None = None
    parameters: int | None = None
    images: float | None = None
    seconds: float | None = None
    document: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunData:
    """The results of a run, typed."""

    rows: list[ResultRow]
    times: tuple[CellTime, ...] = ()
    win_rates: tuple[WinRate, ...] = ()
    requirements: tuple[Requirements, ...] = ()
    timing: tuple[TimingRow, ...] = ()


def read_run(run: RunFolder) -> RunData:
    """Results of a finished run; UserError in one line for a missing, broken or wrong document."""
    run.require_finished()
    document, name = run.read_results_document(), str(run.results_file)
    timing = timing_rows(document.get("timing", []), f"{name}, timing")
    return RunData(
        result_rows(document, name),
        tuple(CellTime.of(row) for row in timing if row.batch == 1),
        WinRate.all_from_json(document.get("pairs", []), f"{name}, pairs"),
        Requirements.all_from_json(document.get("takes", []), f"{name}, takes"),
        timing,
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
    if most > ratio * (1 + NFE_TOLERANCE) and not any("NFE" in f for f in reasons):
        reasons.append(f"{most:.2f}x is above the ratio of NFE, {ratio:.2f}")
    return replace(gain, flag="; ".join(reasons))


def role_of(row: ResultRow) -> str:
    """The role of a row's cell."""
    role: str | None = getattr(row, "role", None)
    if role is not None:
        return role
    labels = {label: role for role, label in ROLE_NAMES.items()}
    return labels.get(row.method, "candidate")


def printed_name(row: ResultRow) -> str:
    """A row's method as tables print it: the role's name for what is no candidate."""
    return ROLE_NAMES.get(role_of(row), row.method)


def models(rows: Iterable[ResultRow]) -> list[str]:
    """Models in the order of the run."""
    return list(dict.fromkeys(r.model for r in rows))


def floor_value(rows: Sequence[ResultRow], model: str, metric: str) -> float | None:
    """The distance of the reference to itself with other seeds, where it was measured."""
    own = (r for r in rows if (r.model, r.metric) == (model, metric) and role_of(r) == "floor")
    return next((r.value for r in own), None)
