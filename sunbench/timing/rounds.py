"""Rounds in which methods take turns, so that a slow minute slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from sunbench.models.protocols import Pipeline
from sunbench.sampling import Sampler, SampleSettings, decode_latents
from sunbench.sampling.stopwatch import ModuleTimer, Stopwatch
from sunbench.timing.inputs import TimingInputs


@dataclass(frozen=True)
class TimedMethod:
    """One method at one number of steps, as a timing pass needs it.

    reads_negative: whether it has the negative prompts encoded. sampler: opens a context in which
    the method is prepared and its sampler usable. cheaper_passes: whether its U-Net passes may take
    less time than the reference's, so that a speed-up may lie above the ratio of NFE.
    """

    method: str
    role: Literal["reference", "candidate"]
    settings: SampleSettings
    reads_negative: bool
    sampler: Callable[[], AbstractContextManager[Sampler]]
    cheaper_passes: bool = False


@dataclass(frozen=True)
class Turn:
    """Seconds of one batch by part, and the U-Net evaluations of one image."""

    text: float
    sampler: float
    unet: float
    decoder: float
    nfe: float

    @property
    def seconds(self) -> float:
        """End to end."""
        return self.text + self.sampler + self.decoder


@dataclass(frozen=True)
class BatchTurns:
    """The turns of all methods at one batch size, and the most bytes that each held."""

    batch: int
    warm_up: int
    methods: list[TimedMethod]
    turns: list[list[Turn]]
    peaks: list[int | None]


def turn_order(count: int, rounds: int) -> list[list[int]]:
    """Who goes when: everyone once per round, a different one first each time."""
    return [[(r + i) % count for i in range(count)] for r in range(rounds)]


def unet_of(sampler: Sampler, pipeline: Pipeline) -> Any:
    """The U-Net that a sampler runs: that of its own pipeline where it has one."""
    return getattr(sampler, "pipeline", pipeline).unet


@torch.no_grad()
def time_batch(method: TimedMethod, sampler: Sampler, inputs: TimingInputs) -> Turn:
    """Encode, sample and decode one batch."""
    pipeline, batch = inputs.pipeline, inputs.batch()
    stopwatch = Stopwatch(pipeline.unet.device)
    stopwatch.synchronize()
    start = stopwatch.mark()
    prompt, negative = inputs.encode(method.reads_negative)
    encoded = stopwatch.mark()
    with ModuleTimer(unet_of(sampler, pipeline), stopwatch) as unet:
        latents = sampler.sample(replace(batch, prompt_embeds=prompt, negative_embeds=negative))
    sampled = stopwatch.mark()
    decode_latents(pipeline, latents)
    decoded = stopwatch.mark()
    stopwatch.synchronize()
    return Turn(
        start.until(encoded),
        encoded.until(sampled),
        unet.seconds,
        sampled.until(decoded),
        sampler.nfe,
    )


def timed_rounds(
    methods: Sequence[TimedMethod], inputs: TimingInputs, rounds: int
) -> list[list[Turn]]:
    """The turns of each method, one per round."""
    turns: list[list[Turn]] = [[] for _ in methods]
    for order in turn_order(len(methods), rounds):
        for i in order:
            with methods[i].sampler() as sampler:
                turns[i].append(time_batch(methods[i], sampler, inputs))
    return turns
