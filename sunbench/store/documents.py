"""What run.json and results.json hold: dataclasses, read strictly, written through `RunFolder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from sunbench.errors import UserError
from sunbench.store.decode import decode
from sunbench.store.layout import CellLayout
from sunbench.store.results import ResultRow, Role, check_distinct
from sunbench.store.timings import TimingRow

__all__ = [
    "SCHEMA_VERSION",
    "CellContent",
    "CellRecord",
    "EnvironmentRecord",
    "FiniteNRow",
    "ModelRecord",
    "PairRow",
    "PromptSetRecord",
    "ResultRow",
    "Results",
    "Role",
    "RunDocument",
    "SetPairRow",
    "SourcesRecord",
    "TimingRow",
    "TrainingRequirements",
]

#: Of run.json and results.json; documents of another version are refused.
SCHEMA_VERSION = 3


# ------------------------------------------------------------------------------ results.json


class _TwoCells:
    """What rows about two methods share: where they are compared, and what is found.

    The verdict is read off the interval of the difference, which holds for all comparisons that are
    shown together.
    """

    a: str
    b: str
    steps: int
    steps_b: int | None
    nfe: int | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    equivalent: bool | None

    @property
    def cells(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(method, steps) of both."""
        return (self.a, self.steps), (self.b, self.steps_b or self.steps)

    @property
    def place(self) -> str:
        """What is equal: "4 steps", or "8 NFE"."""
        return f"{self.steps} steps" if self.nfe is None else f"{self.nfe} NFE"

    @property
    def steps_text(self) -> str:
        """Steps of both, "4" or "4 / 8"."""
        return " / ".join(dict.fromkeys(str(steps) for _, steps in self.cells))

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        low, high = self.difference_low, self.difference_high
        return low is not None and high is not None and not low <= 0 <= high

    @property
    def difference_text(self) -> str:
        """The difference with its interval, "+0.2 [-0.01, +0.41]"."""
        ends = self.difference, self.difference_low, self.difference_high
        if any(x is None for x in ends):
            return "–"
        return "{:+.3g} [{:+.3g}, {:+.3g}]".format(*ends)

    @property
    def a_is_closer(self) -> bool:
        """Whether A is the closer one, by however little."""
        return self.difference is not None and self.difference < 0

    @property
    def verdict(self) -> str:
        """In words: "A closer", "B closer", "equivalent" or "not distinguishable".

        Equivalent methods of which one is closer all the same: "equivalent (B closer by less than
        the margin)".
        """
        closer = "A closer" if self.a_is_closer else "B closer"
        if self.equivalent:
            less = f" ({closer} by less than the margin)" if self.distinguishable else ""
            return f"equivalent{less}"
        return closer if self.distinguishable else "not distinguishable"


@dataclass(frozen=True)
class PairRow(_TwoCells):
    """On what share of prompts method a is closer to the reference than b, at equal steps or NFE.

    nfe: the budget of evaluations that both are within, None where they are compared at equal
    steps; steps: of a; steps_b: of b where they are others. n: prompts. low, high: the 95 %
    interval of the share. difference: of the metric as a distance, with an interval that holds for
    all comparisons together; p_adjusted: corrected likewise. equivalent: that interval lies within
    a share of the floor's distance. detectable: the smallest difference that would be shown. None
    where it was not computed.
    """

    model: str
    steps: int
    metric: str
    a: str
    b: str
    a_closer: float
    low: float
    high: float
    n: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_adjusted: float | None = None
    equivalent: bool | None = None
    detectable: float | None = None
    steps_b: int | None = None
    nfe: int | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the difference excludes 0; without one, the share's one half."""
        if self.difference is None:
            return not self.low <= 0.5 <= self.high
        return super().distinguishable

    @property
    def a_is_closer(self) -> bool:
        """Whether A is the closer one: by the difference, without one on more prompts."""
        return self.a_closer > 0.5 if self.difference is None else super().a_is_closer


@dataclass(frozen=True)
class SetPairRow(_TwoCells):
    """Two methods on a distance of sets: the difference, at equal steps or NFE as in `PairRow`.

    order_holds: A and B stand in one order at N, at N / 2 and at infinity; None where unknown.
    """

    model: str
    steps: int
    metric: str
    a: str
    b: str
    difference: float
    difference_low: float
    difference_high: float
    p_adjusted: float
    equivalent: bool | None
    order_holds: bool | None
    steps_b: int | None = None
    nfe: int | None = None


@dataclass(frozen=True)
class FiniteNRow:
    """What a cell's distance of sets owes to its number of images.

    value, half, infinity: at n, at n / 2 and extrapolated. mean_bias: the part of the value that is
    the noise of the mean.
    """

    model: str
    role: Role
    method: str
    metric: str
    steps: int
    n: int
    value: float
    half: float
    infinity: float
    mean_bias: float


@dataclass(frozen=True)
class TrainingRequirements:
    """What a method needs beside a model; None for what is not known.

    training: "none", "once per base" or "once per model". base: the model that its weights were
    trained on. parameters, images, seconds: what the training cost. document: the weights'
    training.json.
    license: what the repository of published weights states.
    """

    model: str
    method: str
    training: str | None = None
    negative_prompts: bool | None = None
    base: str | None = None
    parameters: float | None = None
    images: float | None = None
    seconds: float | None = None
    document: dict[str, Any] | None = None
    license: str | None = None

    def to_json(self) -> dict[str, object]:
        """The record as a JSON-able object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Any, where: str) -> TrainingRequirements:
        """The record in a parsed JSON object; UserError naming ``where`` for anything else."""
        return decode(cls, record, where)


@dataclass(frozen=True)
class Results:
    """results.json: rows, comparisons, the timing pass, and training requirements."""

    rows: tuple[ResultRow, ...]
    pairs: tuple[PairRow, ...] = ()
    set_pairs: tuple[SetPairRow, ...] = ()
    finite_n: tuple[FiniteNRow, ...] = ()
    timing: tuple[TimingRow, ...] = ()
    requirements: tuple[TrainingRequirements, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_distinct(self.rows)

    def to_json(self) -> dict[str, object]:
        """The document as a JSON-able object, its version first."""
        return _versioned(self)

    @classmethod
    def from_json(cls, document: Mapping[str, object], where: str) -> Results:
        """The document; UserError naming ``where`` and the field for anything else."""
        return decode(cls, document, where)


# ------------------------------------------------------------------------------ run.json


@dataclass(frozen=True)
class PromptSetRecord:
    """The prompts of a model: name, content hash, how many, and where they are from."""

    name: str
    hash: str
    n: int
    source: str


@dataclass(frozen=True)
class PromptSetKey:
    """The part of a cell's content that says which prompts it shows."""

    name: str
    hash: str
    n: int


@dataclass(frozen=True)
class CellContent:
    """The part of a cell's content that readers of a run rely on; the cell's key is of all of it.

    shard_size: prompts of a whole shard.
    """

    model: str
    weights: dict[str, str]
    method: str
    settings: dict[str, Any]
    steps: int
    guidance_scale: float
    task: str
    prompts: PromptSetKey
    seeds: tuple[int, ...]
    resolution: int
    dtype: str
    shard_size: int

    def __post_init__(self) -> None:
        if min(self.steps, self.prompts.n, self.resolution, self.shard_size) < 1 or not self.seeds:
            raise UserError("given no steps, prompts, seeds, pixels or shard size, expected some")

    @classmethod
    def of(cls, content: Any, where: str) -> CellContent:
        """The part of a whole content; UserError naming ``where`` for anything else."""
        if not isinstance(content, Mapping):
            raise UserError(f"{where}: given {type(content).__name__}, expected an object")
        names = [f.name for f in fields(cls)]
        return decode(cls, {n: content[n] for n in names if n in content}, where)

    @property
    def images(self) -> int:
        """How many images the cell holds."""
        return self.layout.images

    @property
    def shards(self) -> int:
        """How many shards they fill."""
        return self.layout.shards

    @property
    def layout(self) -> CellLayout:
        """Which images lie in which shard."""
        return CellLayout(self.prompts.n, len(self.seeds), self.shard_size)


@dataclass(frozen=True)
class CellRecord:
    """A cell of a run: its part in it, its content and key; skip: why it could not be sampled."""

    role: Role
    key: str
    label: str
    content: dict[str, Any]
    skip: str | None = None

    def __post_init__(self) -> None:
        self.about  # noqa: B018

    @cached_property
    def about(self) -> CellContent:
        """What the content says."""
        return CellContent.of(self.content, "content")


@dataclass(frozen=True)
class SourcesRecord:
    """Source images of a run: a cell of the model's own, or files of a folder.

    sources: their content hash. source_shift: how many prompts further each is.
    """

    sources: str
    source_shift: int = 0
    files: tuple[str, ...] = ()
    cell: CellRecord | None = None


@dataclass(frozen=True)
class ModelRecord:
    """Where one model's numbers come from: card, hashes of its weights, prompts, cells."""

    card: dict[str, Any]
    weights: dict[str, str]
    prompts: PromptSetRecord
    cells: tuple[CellRecord, ...]
    vae: str | None = None
    revision: str | None = None
    sources: SourcesRecord | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.card.get("name"), str):
            raise UserError("given a card without a name, expected one")

    @property
    def name(self) -> str:
        """The model's name in the tables."""
        return str(self.card["name"])

    @property
    def all_cells(self) -> tuple[CellRecord, ...]:
        """The model's cells, those of its source images first."""
        own = None if self.sources is None else self.sources.cell
        return self.cells if own is None else (own, *self.cells)

    def of_role(self, role: Role) -> CellRecord | None:
        """The first cell of a role, if any."""
        return next((c for c in self.cells if c.role == role), None)


@dataclass(frozen=True)
class EnvironmentRecord:
    """The machine and the versions behind a run. No host names, no paths.

    processor: model name. cores: of the machine. threads: that PyTorch used. gpus: their names.
    """

    sunbench: str
    python: str
    system: str
    packages: dict[str, str]
    processor: str
    cores: int | None
    threads: int
    memory_bytes: int
    gpus: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The record as a JSON-able object."""
        return asdict(self)


@dataclass(frozen=True)
class RunDocument:
    """run.json: the request, the machine, what the run took, and where each number is from.

    phases: seconds of each. black_images: images that are black all over.
    """

    request: dict[str, Any]
    environment: EnvironmentRecord
    models: tuple[ModelRecord, ...]
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    black_images: int = 0
    new_shards: int = 0
    schema_version: int = SCHEMA_VERSION

    @property
    def device(self) -> str:
        """The device that the request names."""
        return str(self.request.get("device", "cpu"))

    @property
    def budgets(self) -> tuple[int, ...]:
        """Budgets of evaluations that the request names; none where it names steps."""
        return tuple(self.request.get("nfe") or ())

    def to_json(self) -> dict[str, object]:
        """The document as a JSON-able object, its version first."""
        return _versioned(self)

    @classmethod
    def from_json(cls, document: Mapping[str, object], where: str) -> RunDocument:
        """The document; UserError naming ``where`` and the field for anything else."""
        return decode(cls, document, where)


def _versioned(document: Results | RunDocument) -> dict[str, object]:
    return {"schema_version": document.schema_version, **asdict(document)}
