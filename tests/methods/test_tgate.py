"""T-GATE: guided before the gate; after it the text's attention is what was kept."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.methods.tgate import GateRule, gated, tgate
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(5, 4.0)
IDS = [ImageId("p", 0), ImageId("q", 0)]


def texts(tiny: ModuleType) -> torch.Tensor:
    return torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))


def test_a_gate_at_the_end_is_plain_guidance(pipeline: Any, tiny: ModuleType):
    ours = replace(tgate(), share=1.0).prepare(pipeline, SETTINGS)
    plain = registry.method("dpm++").prepare(pipeline, SETTINGS)
    batches = [make_batch(IDS, *texts(tiny), (4, 8, 8)) for _ in range(2)]
    assert torch.equal(ours.sample(batches[0]), plain.sample(batches[1]))
    assert ours.nfe == 10


@pytest.mark.parametrize(("steps", "guided"), [(1, 1), (4, 2), (5, 2), (25, 10)])
def test_evaluations(steps: int, guided: int):
    settings = SampleSettings(steps, 4.0)
    assert tgate().gate(settings) == guided
    assert tgate().evaluations(settings) == steps + guided


def test_after_the_gate_no_text_is_read(pipeline: Any, tiny: ModuleType):
    rule = GateRule(1)
    unet = gated(pipeline.unet, rule)
    x, (positive, negative) = torch.randn(2, 4, 8, 8), texts(tiny)
    rule.needs_unconditional(torch.tensor(9), 1)
    unet(torch.cat([x[:1], x[:1]]), 9, torch.cat([negative[:1], positive[:1]]))
    rule.needs_unconditional(torch.tensor(5), 1)
    first = unet(x[:1], 5, positive[:1]).sample
    assert torch.equal(unet(x[:1], 5, negative[:1]).sample, first)
    plain = pipeline.unet(x[:1], 5, positive[:1]).sample
    assert not torch.allclose(plain, first, atol=1e-4)


def test_what_is_kept_is_the_average_of_both_texts(pipeline: Any, tiny: ModuleType):
    rule = GateRule(1)
    unet = gated(pipeline.unet, rule)
    outputs = {}
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            module.register_forward_hook(
                lambda m, args, out, name=name: outputs.__setitem__(name, out.detach().clone())
            )
    x, (positive, negative) = torch.randn(1, 4, 8, 8), texts(tiny)
    inputs = torch.cat([x, x]), 9, torch.cat([negative[:1], positive[:1]])
    rule.needs_unconditional(torch.tensor(9), 1)
    unet(*inputs)
    pipeline.unet(*inputs)
    for module in pipeline.unet.modules():
        module._forward_hooks.clear()
    assert outputs
    for name, out in outputs.items():
        kept = rule.kept[f"{name}.processor"]
        torch.testing.assert_close(kept, out.mean(0, keepdim=True), rtol=1e-5, atol=1e-6)


def test_the_models_processors_stay(pipeline: Any):
    before = {k: type(v) for k, v in pipeline.unet.attn_processors.items()}
    tgate().prepare(pipeline, SETTINGS)
    assert {k: type(v) for k, v in pipeline.unet.attn_processors.items()} == before
