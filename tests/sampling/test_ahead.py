"""Noise and timesteps that are prepared for all steps of a batch are those of a step at a time."""

from __future__ import annotations

from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sunbench import registry
from sunbench.sampling import ImageId, SampleSettings, image_generator, make_batch
from sunbench.sampling import pipeline as pipelines
from sunbench.sampling.ahead import HostTimesteps, StepNoise, ahead

SHAPE = (3, 4, 8, 8)
CPU = torch.device("cpu")
#: Methods of each kind of solver, those that read their timestep and those that draw noise.
METHODS = (
    *("ddim", "dpm++", "dpm++-sde", "unipc", "sa-solver", "ipndm", "ays", "cfg++"),
    *("lcm", "lcm-lora", "tcd-lora", "pcm-lora", "sun", "interval-guidance-ddim", "tgate"),
)
#: Of them those whose solvers count their steps and read no timestep: diffusers' multistep ones.
SIGMAS = ("dpm++", "dpm++-sde", "unipc", "sa-solver", "ays", "tgate")


def generators(n: int = 3) -> list[torch.Generator]:
    return [image_generator(ImageId(f"p{i}", 0)) for i in range(n)]


class Reads(TorchDispatchMode):
    """Notes what is read out of tensors one value at a time, by where it lies in memory.

    On a device each such read of its memory stops the processor until the device is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.read.append(args[0])
        return func(*args, **(kwargs or {}))

    def of(self, *tables: Tensor) -> int:
        """How many reads were of the memory of one of the tables."""
        places = {t.untyped_storage().data_ptr() for t in tables}
        return sum(t.untyped_storage().data_ptr() in places for t in self.read)


def test_noise_of_all_steps_is_that_of_a_draw_per_step():
    plain, own = generators(), generators()
    expected = [randn_tensor(SHAPE, generator=plain, dtype=torch.float32) for _ in range(4)]
    with StepNoise(own, CPU) as noise:
        noise.steps = 3
        drawn = [randn_tensor(SHAPE, generator=own, dtype=torch.float32) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_one_image_and_other_generators_draw_as_they_do():
    plain, own, other = generators(1), generators(1), torch.Generator().manual_seed(3)
    with StepNoise(own, CPU):
        alone = randn_tensor((1, *SHAPE[1:]), generator=own, dtype=torch.float16)
        foreign = torch.randn(5, generator=other)
    expected = torch.randn((1, *SHAPE[1:]), generator=plain[0], dtype=torch.float16)
    assert torch.equal(alone, expected)
    assert torch.equal(foreign, torch.randn(5, generator=torch.Generator().manual_seed(3)))


def test_a_timestep_is_told_by_its_place():
    scheduler = DDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(5)
    host = HostTimesteps(scheduler)
    rest = scheduler.timesteps[2:]
    assert [host.index(t) for t in rest] == [2, 3, 4]
    assert [int(host(t)) for t in rest] == rest.tolist()
    assert host.index(torch.tensor(int(rest[0]))) is None
    assert host(7) == 7
    scheduler.set_timesteps(3)
    assert host.read().tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("kind", [LCMScheduler, TCDScheduler, DDIMScheduler])
def test_a_scheduler_is_as_before_afterwards(kind: type):
    scheduler = kind()

    def interrupted() -> None:
        with ahead(scheduler, generators(), CPU):
            assert scheduler.step.__wrapped__.__func__ is kind.step
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert not {"step", "set_timesteps"} & set(vars(scheduler))


def sampled(name: str, pipeline: Any, tiny: ModuleType, weights: dict[str, str]) -> Any:
    """Latents of a method, and the timesteps that it went through."""
    method = registry.method(name, weights=weights)
    g = torch.Generator().manual_seed(3)
    texts, negatives = torch.randn(2, 3, 24, tiny.WIDTH, generator=g)
    batch = make_batch([ImageId(f"p{i}", 0) for i in range(3)], texts, negatives, (4, 8, 8))
    sampler = method.prepare(pipeline, SampleSettings(4, 4.0))
    try:
        return sampler.sample(batch), sampler.pipeline.scheduler.timesteps
    finally:
        method.release(pipeline)


class OnDevice(HostTimesteps):
    """Timesteps that are copied though they are on the processor already, as from a device."""

    def read(self) -> Tensor:
        if self._source is not self.scheduler.timesteps:
            self._source, self._copy = self.scheduler.timesteps, self.scheduler.timesteps.clone()
        return self._copy


@pytest.mark.parametrize("name", METHODS)
def test_no_step_reads_the_device(
    name: str,
    pipeline: Any,
    tiny: ModuleType,
    weights: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Values of the batch are read once at its end; timesteps are not, and results are as ever."""
    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "ahead", lambda *_: nullcontext())
        with Reads() as step_by_step:
            expected, table = sampled(name, pipeline, tiny, weights)
    for module in ("sampling.ahead", "methods.common.guidance", "methods.cfg_pp"):
        monkeypatch.setattr(f"sunbench.{module}.HostTimesteps", OnDevice)
    with Reads() as reads:
        latents, own_table = sampled(name, pipeline, tiny, weights)
    assert torch.equal(latents, expected)
    assert (step_by_step.of(table) >= 3) == (name not in SIGMAS)
    assert reads.of(own_table) == 0
    assert sum(t.dtype == torch.bool for t in reads.read) >= 1  # whether the latents are finite
