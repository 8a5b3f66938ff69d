"""Guidance that is left out: the same images where nothing is left out, fewer passes elsewhere."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.methods.adaptive_guidance import AdaptiveRule, adaptive_guidance
from sunbench.methods.common.guidance import SelectiveUNet
from sunbench.methods.interval_guidance import IntervalRule, interval_guidance
from sunbench.sampling import ImageId, SampleBatch, SampleSettings, make_batch

SETTINGS = SampleSettings(6, 4.0)
EVERYWHERE, NOWHERE = (0.0, 1e9), (1e8, 1e9)


def batch_of(tiny: ModuleType, n: int = 3) -> SampleBatch:
    g = torch.Generator().manual_seed(3)
    texts = torch.randn(2, n, 24, tiny.WIDTH, generator=g)
    return make_batch([ImageId(f"p{i}", 0) for i in range(n)], texts[0], texts[1], (4, 8, 8))


def latents(method: Any, pipeline: Any, tiny: ModuleType, settings: SampleSettings = SETTINGS):
    sampler = method.prepare(pipeline, settings)
    return sampler.sample(batch_of(tiny)), sampler.nfe


def test_guided_everywhere_is_plain_guidance(pipeline: Any, tiny: ModuleType):
    plain, _ = latents(registry.method("dpm++"), pipeline, tiny)
    every = replace(interval_guidance(), interval=EVERYWHERE)
    never_agree = replace(adaptive_guidance(), threshold=1.1)
    for method in (every, never_agree):
        ours, nfe = latents(method, pipeline, tiny)
        assert torch.equal(ours, plain)
        assert nfe == 12


def test_guided_nowhere_is_no_guidance(pipeline: Any, tiny: ModuleType):
    unguided, _ = latents(registry.method("dpm++"), pipeline, tiny, SampleSettings(6, 1.0))
    ours, nfe = latents(replace(interval_guidance(), interval=NOWHERE), pipeline, tiny)
    torch.testing.assert_close(ours, unguided, rtol=0, atol=1e-5 * float(unguided.abs().max()))
    assert nfe == 6


def test_what_agrees_at_once_is_guided_once(pipeline: Any, tiny: ModuleType):
    _, nfe = latents(replace(adaptive_guidance(), threshold=-1.1), pipeline, tiny)
    assert nfe == 7


def test_the_interval_counts_the_steps_inside_it(pipeline: Any, tiny: ModuleType):
    method = replace(interval_guidance(), interval=(0.5, 5.0))
    scheduler = method.solver.build(pipeline.scheduler.config)
    scheduler.set_timesteps(6)
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps]
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    inside = int(((sigma > 0.5) & (sigma <= 5.0)).sum())
    assert 0 < inside < 6
    assert latents(method, pipeline, tiny)[1] == 6 + inside


def test_each_image_decides_for_itself():
    rule = AdaptiveRule(0.9)
    rule.begin(3)
    same, other = torch.ones(3, 4, 2, 2), torch.ones(3, 4, 2, 2)
    other[1] = -1
    rule.observe(same, other, torch.tensor([0, 1, 2]))
    assert rule.needs_unconditional(torch.tensor(5), 3).tolist() == [False, True, False]
    rule.begin(2)
    assert rule.needs_unconditional(torch.tensor(5), 2).all()


class Doubler(torch.nn.Module):
    """Returns its rows, scaled by what came with them."""

    def forward(self, sample: Any, timestep: Any, text: Any, return_dict: bool, scale: Any):
        assert len(sample) == len(text) == len(scale[0])
        return (sample * scale[0],)


def test_only_rows_that_are_needed_reach_the_network():
    sample = torch.arange(6.0).reshape(6, 1, 1, 1)
    rule = IntervalRule(torch.tensor([1.0]), 2.0, 3.0)
    unet = SelectiveUNet(Doubler(), rule)
    out = unet(sample, torch.tensor(0), torch.zeros(6, 1), scale=[sample + 1])[0].flatten()
    conditional = (sample * (sample + 1)).flatten()[3:]
    assert torch.equal(out, torch.cat([conditional, conditional]))


@pytest.mark.parametrize("name", ["interval-guidance", "adaptive-guidance"])
def test_without_guidance_there_is_a_reason(name: str, pipeline: Any):
    reason = registry.method(name).skip(pipeline, SampleSettings(4, 1.0))
    assert reason is not None
    assert "no second pass" in reason
