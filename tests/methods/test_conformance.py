"""What every method promises; a new one is tested by being listed in the registry."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.bench.training_requirements import training_requirements
from sunbench.errors import UserError
from sunbench.sampling import ImageId, Method, SampleBatch, SampleSettings, make_batch
from sunbench.store import TrainingRequirements

STEPS, GUIDANCE = 4, 4.0
SETTINGS = SampleSettings(STEPS, GUIDANCE)
IMAGES = [ImageId(f"prompt{i // 2}", i % 2) for i in range(5)]
#: Solvers under classifier-free guidance: two evaluations per step.
TRAINING_FREE = (
    *("ddim", "ddim-leading", "dpm-solver", "dpm++", "dpm++-karras", "dpm++-sde", "unipc"),
    *("deis", "sa-solver", "ipndm", "ays", "gri-attention"),
)
#: On a pruned network, two evaluations per step; they need a U-Net of four stages.
NETWORKS = tuple(name for name, entry in registry.METHODS.items() if entry.network)
#: Training-free too, under a rule that guidance of 1 has no use for: two evaluations per step.
GUIDED_ONLY = ("cfg++",)
#: Training-free too, with unconditional passes left out: between one and two evaluations per step.
SELECTIVE = (
    *("interval-guidance", "interval-guidance-ddim"),
    *("adaptive-guidance", "adaptive-guidance-ddim", "tgate"),
)
#: Training-free too, with partial passes, which count as a share.
PARTIAL = ("deepcache",)
#: Training-free too, at a guidance scale of their own: name -> scale.
FIXED_GUIDANCE = {"ddim-unguided": 1.0, "ddim-low-guidance": 1.5}
#: Trained, under guidance: two evaluations per step.
TWO_PASSES = ("lcm-lora-cfg", "pcm-lora-cfg", "hyper-sd-cfg", "perflow")
#: One evaluation a step.
ONE_PASS = (
    "ddim-unguided",
    *("sun", "sun-dpm++", "lcm", "lcm-lora", "guided-distill"),
    *("boostdiff-lora", "boostdiff-lora-dpm++", "boostdiff-bitfit", "boostdiff-bitfit-dpm++"),
    *("tcd-lora", "pcm-lora", "hyper-sd", "flash-sd", "agd", "dmd2-lora"),
)


@pytest.fixture
def target(request: pytest.FixtureRequest, pipeline: Any, deep: Any) -> Any:
    """The tiny pipeline, or one of Stable Diffusion's layout for a method that needs it."""
    return deep if request.node.callspec.params["method"] in NETWORKS else pipeline


@pytest.fixture(params=sorted(registry.METHODS))
def method(
    request: pytest.FixtureRequest,
    target: Any,
    weights: dict[str, str],
    deep_weights: dict[str, str],
) -> Iterator[Method]:
    chosen = registry.method(request.param, weights={**weights, **deep_weights})
    reason = chosen.skip(target, SETTINGS)
    if reason is not None:
        pytest.skip(reason)
    yield chosen
    chosen.release(target)


def batch_of(tiny: ModuleType, which: list[int]) -> SampleBatch:
    g = torch.Generator().manual_seed(3)
    texts = torch.randn(len(IMAGES), 24, tiny.WIDTH, generator=g)
    negatives = torch.randn(len(IMAGES), 24, tiny.WIDTH, generator=g)
    images = [IMAGES[i] for i in which]
    return make_batch(images, texts[which], negatives[which], (4, 8, 8))


def sampled(
    method: Method,
    pipeline: Any,
    tiny: ModuleType,
    which: list[int],
    settings: SampleSettings = SETTINGS,
) -> torch.Tensor:
    return method.prepare(pipeline, settings).sample(batch_of(tiny, which))


def test_interface(method: Method, target: Any):
    assert isinstance(method, Method)
    assert registry.METHODS[method.name].summary
    content = method.content(target, SETTINGS)
    assert content["method"] == method.name
    assert json.loads(json.dumps(content)) == content


def test_shapes_and_determinism(method: Method, target: Any, tiny: ModuleType):
    first = sampled(method, target, tiny, [0, 1, 2])
    assert first.shape == (3, 4, 8, 8)
    assert first.dtype == torch.float32
    assert bool(torch.isfinite(first).all())
    assert torch.equal(sampled(method, target, tiny, [0, 1, 2]), first)
    assert not torch.equal(first[0], first[1])  # the same prompt from another seed


def test_one_sampler_makes_the_same_batch_twice(method: Method, target: Any, tiny: ModuleType):
    """Multistep solvers keep a history, which must not reach the next batch."""
    sampler = method.prepare(target, SETTINGS)
    first = sampler.sample(batch_of(tiny, [0, 1]))
    sampler.sample(batch_of(tiny, [2, 3]))
    assert torch.equal(sampler.sample(batch_of(tiny, [0, 1])), first)


def test_batches_and_order_do_not_change_an_image(method: Method, target: Any, tiny: ModuleType):
    """Within 1e-5 of the latents' size: matrix products of other shapes round otherwise."""
    whole = sampled(method, target, tiny, [0, 1, 2, 3, 4])
    size = float(whole.abs().max())
    for which in ([0, 1, 2], [3, 4], [4], [3, 0, 2, 1, 4]):
        part = sampled(method, target, tiny, which)
        torch.testing.assert_close(part, whole[which], atol=1e-5 * size, rtol=0)


def test_prompts_and_negatives_are_used(method: Method, target: Any, tiny: ModuleType):
    sampler = method.prepare(target, SETTINGS)
    plain, swapped = batch_of(tiny, [0]), batch_of(tiny, [0])
    first = sampler.sample(plain)
    other = SampleBatch(
        swapped.negative_embeds, swapped.prompt_embeds, swapped.latents, swapped.generators
    )
    assert not torch.allclose(sampler.sample(other), first, atol=1e-4)


def test_negative_prompts_act_where_a_method_says_so(method: Method, target: Any, tiny: ModuleType):
    """What the table of a run's needs shows is what the network does."""
    sampler = method.prepare(target, SETTINGS)
    plain, other = batch_of(tiny, [0, 1]), batch_of(tiny, [0, 1])
    other = SampleBatch(
        other.prompt_embeds, other.negative_embeds.flip(1), other.latents, other.generators
    )
    same = torch.equal(sampler.sample(plain), sampler.sample(other))
    assert same is not training_requirements("tiny", method, target).negative_prompts


def test_what_a_method_takes(method: Method, target: Any):
    needs = training_requirements("tiny", method, target)
    record = json.loads(json.dumps(needs.to_json()))
    assert TrainingRequirements.from_json(record, "r") == needs
    assert needs.method == method.name
    free = method.name in (*TRAINING_FREE, *GUIDED_ONLY, *FIXED_GUIDANCE, *SELECTIVE, *PARTIAL)
    assert (needs.training == "none") is free
    assert needs.training in ("none", "once per base", "once per model")
    assert (method.trained_weights(target) is None) is free  # type: ignore[attr-defined]


@pytest.mark.parametrize("guidance", [GUIDANCE, 1.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_nfe_is_what_the_network_saw(
    method: Method, target: Any, tiny: ModuleType, steps: int, guidance: float
):
    settings = SampleSettings(steps, guidance)
    if (reason := method.skip(target, settings)) is not None:
        pytest.skip(reason)
    seen: list[int] = []
    sampler = method.prepare(target, settings)
    unet = sampler.counted  # type: ignore[attr-defined]  # a student replaces the target's
    handle = unet.register_forward_hook(lambda m, args, out: seen.append(len(out[0])))
    try:
        sampler.sample(batch_of(tiny, [0, 1, 2]))
    finally:
        handle.remove()
    if method.name in PARTIAL:
        assert sum(seen) / 3 <= sampler.nfe <= method.evaluations(settings)
        assert sampler.nfe == pytest.approx(method.expected_nfe(target, settings))  # type: ignore[attr-defined]
        return
    assert sampler.nfe == sum(seen) / 3
    if method.name in SELECTIVE:
        assert steps <= sampler.nfe <= method.evaluations(settings) <= 2 * steps
        assert method.name.startswith("adaptive") or sampler.nfe == method.expected_nfe(
            target, settings
        )  # type: ignore[attr-defined]
    else:
        assert sampler.nfe == method.evaluations(settings)
    if method.name in (*TRAINING_FREE, *NETWORKS):
        assert sampler.nfe == steps * (2 if guidance > 1 else 1)
    if method.name in ONE_PASS:
        assert sampler.nfe == steps
    if method.name in TWO_PASSES and guidance > 1:
        assert sampler.nfe == 2 * steps
    if method.name in ("ddim-low-guidance", *GUIDED_ONLY):
        assert sampler.nfe == 2 * steps


@pytest.mark.parametrize(("name", "scale"), FIXED_GUIDANCE.items())
def test_a_fixed_guidance_scale_is_ddim_at_that_scale(
    name: str, scale: float, pipeline: Any, tiny: ModuleType
):
    """The run's scale, which the reference samples with, does not reach it."""
    fixed, ddim = registry.method(name), registry.method("ddim")
    expected = sampled(ddim, pipeline, tiny, [0, 1], SampleSettings(STEPS, scale))
    for asked in (1.0, GUIDANCE):
        settings = SampleSettings(STEPS, asked)
        assert torch.equal(sampled(fixed, pipeline, tiny, [0, 1], settings), expected)
    assert fixed.content(pipeline, SETTINGS)["fixed_guidance_scale"] == scale
    assert fixed.content(pipeline, SETTINGS) != ddim.content(pipeline, SETTINGS)


def test_low_guidance_is_a_setting(pipeline: Any):
    from sunbench.methods.ddim import ddim_low_guidance

    content = ddim_low_guidance(2.0).content(pipeline, SETTINGS)
    assert content["fixed_guidance_scale"] == 2.0


def test_only_guidance_above_1_is_refused_where_guidance_is_an_input(
    tiny: ModuleType, tmp_path: Path
):
    conditioned = tiny.pipeline(tmp_path, time_cond_proj_dim=8)
    assert registry.method("ddim-unguided").skip(conditioned, SETTINGS) is None
    reason = registry.method("ddim-low-guidance").skip(conditioned, SampleSettings(STEPS, 1.0))
    assert reason is not None
    assert "guidance as an input" in reason


def test_nfe_is_of_the_last_batch_alone(method: Method, target: Any, tiny: ModuleType):
    sampler = method.prepare(target, SETTINGS)
    counts = []
    for which in ([0, 1, 2], [3]):
        sampler.sample(batch_of(tiny, which))
        counts.append(sampler.nfe)
    if method.name in SELECTIVE:
        assert max(counts) <= 2 * STEPS
    else:
        assert counts[0] == counts[1]


def test_release_leaves_the_networks_as_they_were(method: Method, target: Any, tiny: ModuleType):
    before = {k: v.clone() for k, v in target.unet.state_dict().items()}
    processors = {k: type(v) for k, v in target.unet.attn_processors.items()}
    sampled(method, target, tiny, [0])
    method.release(target)
    after = target.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert {k: type(v) for k, v in target.unet.attn_processors.items()} == processors


def test_a_method_leaves_no_trace_in_the_next(
    pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    first = registry.method("ddim")
    alone = sampled(first, pipeline, tiny, [0, 1])
    for name in registry.METHODS:
        other = registry.method(name, weights=weights)
        if other.skip(pipeline, SETTINGS) is None:
            sampled(other, pipeline, tiny, [0, 1])
            other.release(pipeline)
            assert torch.equal(sampled(first, pipeline, tiny, [0, 1]), alone)


def test_more_steps_than_the_schedule_has(method: Method, target: Any):
    reason = method.skip(target, SampleSettings(1001, GUIDANCE))
    assert reason is not None
    assert "1001" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_a_thousand_steps_and_one_are_within_the_schedule(name: str, pipeline: Any):
    for steps in (1, 1000):
        assert registry.method(name).skip(pipeline, SampleSettings(steps, GUIDANCE)) is None


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_a_pipeline_for_another_task_is_a_reason(name: str, pipeline: Any):
    reason = registry.method(name).skip(pipeline, SampleSettings(4, GUIDANCE, "inpaint"))
    assert reason is not None
    assert "task inpaint needs a StableDiffusionInpaintPipeline" in reason


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_cfg_is_refused_where_guidance_is_an_input(name: str, tiny: ModuleType, tmp_path: Path):
    """A distilled U-Net takes w as an embedding; CFG on top of it means nothing."""
    conditioned = tiny.pipeline(tmp_path, time_cond_proj_dim=8)
    method = registry.method(name)
    reason = method.skip(conditioned, SETTINGS)
    assert reason is not None
    assert "guidance as an input" in reason
    assert method.skip(conditioned, SampleSettings(4, 1.0)) is None


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_latents_that_are_not_finite_are_an_error(name: str, pipeline: Any, tiny: ModuleType):
    broken = copy.copy(pipeline)
    unet = copy.deepcopy(pipeline.unet)
    unet.conv_out.bias.data[0] = float("nan")
    broken.unet = unet
    try:
        with pytest.raises(UserError, match=r"4-step latents are not finite .*float32"):
            sampled(registry.method(name), broken, tiny, [0])
    finally:
        assert bool(torch.isfinite(pipeline.unet.conv_out.bias).all())
