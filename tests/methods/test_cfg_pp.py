"""CFG++ as a falling guidance scale: the same latents as the paper's own update."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.methods.cfg_pp import scales, strength
from sunbench.sampling import ImageId, SampleSettings, make_batch


def test_the_examples_scales():
    assert strength(7.5) == pytest.approx(0.6)
    assert strength(12.5) == pytest.approx(1.0)
    assert strength(100) == 1.0


@pytest.mark.parametrize("guidance", [3.0, 7.5])
def test_latents_are_those_of_the_papers_update(guidance: float, pipeline: Any, tiny: ModuleType):
    """Algorithm 2 written out: x_0 by the interpolation, noise by the unconditional prediction."""
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    batch = make_batch([ImageId("p", 0), ImageId("q", 0)], texts[0], texts[1], (4, 8, 8))
    sampler = registry.method("cfg++").prepare(pipeline, SampleSettings(4, guidance))
    ours = sampler.sample(batch)
    kept = sampler.pipeline.scheduler.alphas_cumprod
    lam, x = strength(guidance), batch.latents
    for now, then in ((999, 749), (749, 499), (499, 249), (249, 0)):
        with torch.no_grad():
            e_n = pipeline.unet(x, now, texts[1]).sample
            e_p = pipeline.unet(x, now, texts[0]).sample
        guided = e_n + lam * (e_p - e_n)
        x_0 = (x - (1 - kept[now]).sqrt() * guided) / kept[now].sqrt()
        x = kept[then].sqrt() * x_0 + (1 - kept[then]).sqrt() * e_n
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4 * float(x.abs().max()))


def test_scales_fall_to_lambda_where_no_noise_is_left():
    kept = torch.linspace(0.9999, 0.01, 100)
    table = scales(kept, [99, 66, 33], 0.5)
    assert table[99] > 0.5
    free = torch.cat([torch.ones(1), kept[1:]])
    assert scales(free, [33], 0.5)[33] == pytest.approx(0.5)


def test_without_guidance_there_is_a_reason(pipeline: Any):
    assert "no second pass" in str(registry.method("cfg++").skip(pipeline, SampleSettings(4, 1.0)))
