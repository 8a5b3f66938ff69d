"""A timing pass: warm-up, methods interleaved round by round, batch 1 and the run's batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import psutil
import torch

from sunbench.errors import UserError, unknown
from sunbench.models import LoadedModel
from sunbench.models.loading import quiet
from sunbench.sampling import Method, Sampler, SampleSettings, TaskInputs
from sunbench.store.timings import TimingRow
from sunbench.timing.inputs import TimingInputs, cycled
from sunbench.timing.machine import LoadMeter, clocks
from sunbench.timing.memory import peak_bytes
from sunbench.timing.rounds import BatchTurns, TimedMethod, timed_rounds
from sunbench.timing.rows import MachineState, timing_rows

log = logging.getLogger(__name__)

#: Seconds of a short pass where the caller sets none.
SHORT_SECONDS = 15.0
#: Batch 1 may take so many seconds of a short pass, or its whole budget where that is more: its
#: five rounds come first, a larger batch takes what is left.
SINGLE_SECONDS = 15.0
#: Rounds that a short pass at a larger batch needs, its warm-up included.
BATCH_ROUNDS = 4


@dataclass(frozen=True)
class PassLength:
    """How long a pass takes: untimed rounds, timed rounds at most, whether it has a budget."""

    warm_up: int
    rounds: int
    bounded: bool


LEVELS = {"short": PassLength(1, 5, True), "full": PassLength(2, 11, False)}


@dataclass(frozen=True)
class TimingSettings:
    """What is timed.

    resolution: pixels per side. batch: the run's batch size, timed beside batch 1; a short pass
    takes a smaller one where its time would not suffice. prompts: (prompt, negative prompt) of
    images. source: source image and mask of one image, for tasks that start from one.
    budget_seconds: of a short pass. rounds, warm_up: in place of the level's.
    """

    resolution: int
    batch: int = 1
    prompts: tuple[tuple[str, str], ...] = ()
    source: TaskInputs | None = None
    budget_seconds: float = SHORT_SECONDS
    rounds: int | None = None
    warm_up: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("batch", 1), ("rounds", 1), ("warm_up", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"given {name} {value} of a timing pass, expected {low} or more")


def timed_method(
    method: Method,
    loaded: LoadedModel,
    settings: SampleSettings,
    role: Literal["reference", "candidate"] = "candidate",
) -> TimedMethod:
    """A method of the registry on a loaded model, prepared and released at every turn."""
    reads = getattr(method, "negative_prompts", True) and settings.guidance_scale > 1

    @contextmanager
    def sampler() -> Iterator[Sampler]:
        try:
            yield method.prepare(loaded.pipeline, settings)
        finally:
            method.release(loaded.pipeline)

    cheaper = bool(getattr(method, "cheaper_passes", False))
    return TimedMethod(method.name, role, settings, reads, sampler, cheaper)


def measure_times(
    loaded: LoadedModel,
    methods: Sequence[TimedMethod],
    settings: TimingSettings,
    level: str = "short",
) -> list[TimingRow]:
    """Time methods against the one whose role is ``reference``, at batch 1 and the run's batch.

    A method that fails (out of memory, latents that are not finite) has no row, and the log says
    why. Raises UserError for an unknown level.
    """
    if level == "none" or not methods:
        return []
    if level not in LEVELS:
        raise unknown("timing level", level, ["none", *LEVELS])
    timing_pass = _Pass(loaded, list(methods), settings, LEVELS[level])
    device = loaded.pipeline.unet.device
    meter, before = LoadMeter.start(), clocks(device)
    load = psutil.getloadavg()[0]
    with quiet():  # without a note about each text that is cut, in every round again
        timing_pass.run()
    state = MachineState(
        load, psutil.getloadavg()[0], meter.other_cpus(), len(meter.cpus), before, clocks(device)
    )
    return timing_rows(loaded, timing_pass.batches, settings.resolution, level, state)


@dataclass
class _Pass:
    """One pass over a model's methods."""

    loaded: LoadedModel
    methods: list[TimedMethod]
    settings: TimingSettings
    level: PassLength
    batches: list[BatchTurns] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    @property
    def warm_up(self) -> int:
        """Untimed rounds."""
        return self.settings.warm_up or self.level.warm_up

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return self.settings.budget_seconds - (time.perf_counter() - self.began)

    def run(self) -> None:
        """Batch 1, then the run's batch or the largest that there is time for."""
        round_seconds = self._time(1, max(self.left, SINGLE_SECONDS))
        batch = self.settings.batch
        if self.level.bounded:
            batch = min(batch, int(self.left / (BATCH_ROUNDS * round_seconds)))
        if batch > 1 and self.batches[0].methods:
            self._time(batch, self.left)

    def _inputs(self, batch: int) -> TimingInputs:
        s = self.settings
        prompts = cycled(s.prompts, batch)
        return TimingInputs(self.loaded.pipeline, prompts, s.resolution, s.source)

    def _time(self, batch: int, budget: float) -> float:
        """Time one batch size; returns the seconds of one round."""
        inputs = self._inputs(batch)
        began = time.perf_counter()
        methods, peaks = self._warm(inputs)
        seconds = max((time.perf_counter() - began) / self.warm_up, 1e-9)
        rounds = self.settings.rounds or self.level.rounds
        if self.level.bounded:
            rounds = max(1, min(rounds, int(budget / seconds) - self.warm_up))
        turns = timed_rounds(methods, inputs, rounds)
        self.batches.append(BatchTurns(batch, self.warm_up, methods, turns, peaks))
        return seconds

    def _warm(self, inputs: TimingInputs) -> tuple[list[TimedMethod], list[int | None]]:
        """Untimed rounds; the methods that came through, and the peak memory of each."""
        methods, peaks = [], []
        for method in self.methods:
            try:
                peaks.append(self._warm_one(method, inputs))
                methods.append(method)
            except (UserError, torch.OutOfMemoryError) as error:
                words = (method.method, method.settings.steps, len(inputs.prompts), error)
                log.warning("%s at %d steps is not timed at batch %d: %s", *words)
        return methods, peaks

    def _warm_one(self, method: TimedMethod, inputs: TimingInputs) -> int | None:
        def rounds() -> None:
            timed_rounds([method], inputs, self.warm_up)

        return peak_bytes(self.loaded.pipeline.unet.device, rounds)
