"""One row per model x method x steps x batch of a timing pass, with the machine it was taken on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from sunbench.errors import UserError
from sunbench.store.decode import decode


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one or more values."""
    low, median, high = np.percentile(np.asarray(values, dtype=float), [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def ratio(base: Sequence[float], other: Sequence[float]) -> Spread:
    """How many times as fast as the base, from ratios within rounds: median and quartiles."""
    return spread([a / b for a, b in zip(base, other, strict=True)])


@dataclass(frozen=True)
class TimingMachine:
    """The machine of a pass.

    load_before, load_after: load averages over a minute. other_cpus: CPUs, of the ``cpus`` that
    were available, that other processes kept busy during the pass, on average.
    """

    device: str
    dtype: str
    memory_format: str
    threads: int
    cpus: int
    tf32_matmul: bool
    tf32_cudnn: bool
    load_before: float
    load_after: float
    other_cpus: float
    clocks_before: dict[str, str]
    clocks_after: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True)
class TimingRow:
    """Seconds of one method at one batch size, one value per round; every value is of a batch.

    text_seconds: the prompts' encoding, and the negative prompts' where the method reads them.
    sampler_seconds: noise to latents; unet_seconds: of these, inside the U-Net.
    decoder_seconds: latents to images. speed_up, unet_speed_up: times as fast as the reference,
    end to end and in the U-Net, from ratios within rounds; None without a reference, and for a
    method that does not run the pipeline's U-Net.
    nfe_ratio: the reference's U-Net evaluations per image over this method's, the ceiling of its
    speed-up unless cheaper_passes, which smaller, compiled and quantized networks have.
    memory: what peak_bytes counts, ``cuda`` allocations or the process's resident set, ``rss``.
    flags: why these times are not to be trusted as they stand; each is a sentence.
    """

    model: str
    method: str
    role: Literal["reference", "candidate"]
    steps: int
    task: str
    resolution: int
    guidance_scale: float
    batch: int
    nfe: float
    level: str
    warm_up: int
    text_seconds: tuple[float, ...]
    sampler_seconds: tuple[float, ...]
    unet_seconds: tuple[float, ...]
    decoder_seconds: tuple[float, ...]
    speed_up: Spread | None
    unet_speed_up: Spread | None
    nfe_ratio: float | None
    peak_bytes: int | None
    memory: Literal["cuda", "rss"]
    flags: tuple[str, ...]
    machine: TimingMachine
    cheaper_passes: bool = False

    def __post_init__(self) -> None:
        parts = (self.text_seconds, self.sampler_seconds, self.unet_seconds, self.decoder_seconds)
        if not self.sampler_seconds or len({len(part) for part in parts}) != 1:
            counts = ", ".join(str(len(part)) for part in parts)
            raise UserError(f"given {counts} seconds of parts, expected one each per round")
        if min(min(self.seconds), self.batch, self.nfe) <= 0:
            raise UserError("given seconds, batch or NFE of 0 or less, expected more")

    def to_json(self) -> dict[str, object]:
        """The row as a JSON-able object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Any, where: str) -> TimingRow:
        """The row in a parsed JSON object; UserError naming ``where`` for anything else."""
        return decode(cls, record, where)

    @property
    def rounds(self) -> int:
        """How many rounds were timed."""
        return len(self.sampler_seconds)

    @property
    def seconds(self) -> tuple[float, ...]:
        """End to end per round: text, sampler and decoder."""
        parts = (self.text_seconds, self.sampler_seconds, self.decoder_seconds)
        return tuple(map(sum, zip(*parts, strict=True)))

    @property
    def latency_ms(self) -> Spread:
        """Milliseconds of a whole batch, end to end."""
        return spread([1000 * s for s in self.seconds])

    @property
    def unet_ms(self) -> Spread:
        """Milliseconds of a whole batch inside the U-Net."""
        return spread([1000 * s for s in self.unet_seconds])

    @property
    def images_per_second(self) -> Spread:
        """Images per second, end to end."""
        return spread([self.batch / s for s in self.seconds])
