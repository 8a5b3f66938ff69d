"""DeepCache: what is reused is what a whole pass would have, on U-Nets of several depths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from sunbench import registry
from sunbench.methods.deepcache import (
    CachedUNet,
    DeepCache,
    deepcache,
    down_layers,
    partial_share,
    up_layers,
)
from sunbench.sampling import ImageId, SampleSettings, make_batch

#: Stable Diffusion's kinds of blocks at small widths: four stages of two layers.
DEEP = {
    "block_out_channels": (8, 16, 16, 24),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SHAPES: dict[str, dict[str, Any]] = {
    "two stages": {},
    "four stages": DEEP,
    "no mid block": {**DEEP, "mid_block_type": None},
}


def unet(tiny: ModuleType, **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**{**tiny.UNET, **changes}).eval().requires_grad_(False)


def inputs(tiny: ModuleType, side: int = 8) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, side, side, generator=g)
    return x, torch.tensor(500), torch.randn(2, 24, tiny.WIDTH, generator=g)


@pytest.mark.parametrize("side", [8, 11])
@pytest.mark.parametrize("shape", SHAPES)
def test_on_equal_inputs_a_partial_pass_is_a_whole_one(shape: str, side: int, tiny: ModuleType):
    """Whatever the branch: the deep features are the same, so nothing may change."""
    net = unet(tiny, **SHAPES[shape])
    arguments = inputs(tiny, side)
    expected = net(*arguments, return_dict=False)[0]
    for branch in range(len(up_layers(net))):
        cached = CachedUNet(net, 3, branch)
        outs = [cached(*arguments)[0] for _ in range(4)]
        assert torch.equal(outs[0], expected)
        for out in outs:
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
        assert (cached.calls, cached.partial_rows) == (4, 4)


def test_only_the_layers_above_the_branch_run(tiny: ModuleType):
    net = unet(tiny, **DEEP)
    ran: list[str] = []
    for name, module in net.named_modules():
        module.register_forward_pre_hook(lambda m, args, name=name: ran.append(name))
    cached = CachedUNet(net, 2, 0)
    cached(*inputs(tiny))
    ran.clear()
    cached(*inputs(tiny))
    blocks = {n.split(".")[1] for n in ran if n.startswith("up_blocks.")}
    assert blocks == {"3"}
    assert not any(n.startswith(("down_blocks", "mid_block")) for n in ran)


def test_residuals_of_a_controlnet_are_added(tiny: ModuleType):
    """They change skip connections alone, so those above the branch act as in a whole pass."""
    net, branch = unet(tiny, **DEEP), 5
    arguments = inputs(tiny)
    skips: list[torch.Tensor] = []
    handles = [
        m.register_forward_hook(lambda m, args, out: skips.append(torch.ones_like(out)))
        for m in (net.conv_in, *(layer.module for layer in down_layers(net)))
    ]
    net(*arguments)
    for handle in handles:
        handle.remove()
    extra = tuple(s if k <= branch else 0 * s for k, s in enumerate(skips))
    more = {
        "down_block_additional_residuals": extra,
        "mid_block_additional_residual": torch.zeros(1),
    }
    cached = CachedUNet(net, 2, branch)
    cached(*arguments)
    ours, expected = cached(*arguments, **more)[0], net(*arguments, **more).sample
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, net(*arguments).sample, atol=1e-3)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_nfe_is_the_share_of_a_pass(interval: int, pipeline: Any, tiny: ModuleType):
    method = replace(deepcache(), interval=interval)
    settings = SampleSettings(5, 4.0)
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    sampler = method.prepare(pipeline, settings)
    out = sampler.sample(make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8)))
    assert sampler.nfe == pytest.approx(method.expected_nfe(pipeline, settings))
    share = partial_share(pipeline.unet, 0, 8, 24)
    assert 0 < share < 1
    whole = -(-5 // interval)
    assert sampler.nfe == pytest.approx(2 * (whole + share * (5 - whole)))
    if interval == 1:
        plain = registry.method("dpm++").prepare(pipeline, settings)
        batch = make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8))
        assert torch.equal(plain.sample(batch), out)


def test_the_share_grows_with_the_branch(tiny: ModuleType):
    """Up to nearly all that lies above the mid block."""
    net = unet(tiny)
    shares = [partial_share(net, b, 8, 24) for b in (0, len(up_layers(net)) - 1)]
    assert 0 < shares[0] < 0.5 < shares[1] < 1


@pytest.mark.parametrize("changes", [{"branch": 4}, {"branch": -1}, {"interval": 0}])
def test_settings_that_do_not_fit_are_one_line(changes: dict[str, int], pipeline: Any):
    reason = replace(deepcache(), **changes).skip(pipeline, SampleSettings(4, 4.0))
    assert reason is not None
    assert "skip connections" in reason
    assert "\n" not in reason


def test_a_u_net_with_other_inputs_is_refused(tiny: ModuleType, tmp_path: Path):
    other = tiny.pipeline(tmp_path, class_embed_type="timestep")
    reason = DeepCache("deepcache", deepcache().solver).skip(other, SampleSettings(4, 4.0))
    assert "class_embed_type" in str(reason)
