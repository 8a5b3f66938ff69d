"""Image-to-image, inpainting and ControlNet: diffusers' own latents, from each image's own noise."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sunbench import registry
from sunbench.errors import UserError
from sunbench.sampling import (
    ImageId,
    SampleBatch,
    SampleSettings,
    TaskInputs,
    decode_latents,
    edges,
    image_generator,
    make_batch,
    text_pipeline,
)
from sunbench.sampling.masks import mask
from sunbench.sampling.task import asked_steps, encode, misfit

IMAGES = [ImageId(f"p{i}", 0) for i in range(3)]
KINDS = ("image2image", "inpaint", "inpaint9", "controlnet")
PAINTED = mask("center", 16)
PipeFor = Callable[[str], Any]


def task_of(kind: str) -> str:
    return kind.removesuffix("9")


def sources() -> torch.Tensor:
    """Of flat squares, so that there are edges and places without."""
    g = torch.Generator().manual_seed(2)
    small = torch.randint(0, 256, (len(IMAGES), 3, 4, 4), generator=g, dtype=torch.uint8)
    return small.repeat_interleave(4, 2).repeat_interleave(4, 3)


def texts(tiny: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    both = torch.randn(2, len(IMAGES), 24, tiny.WIDTH, generator=g)
    return both[0], both[1]


def batch_of(tiny: ModuleType, which: tuple[int, ...] = (0, 1, 2)) -> SampleBatch:
    chosen = list(which)
    positive, negative = texts(tiny)
    start = TaskInputs(sources()[chosen], PAINTED)
    images = [IMAGES[i] for i in chosen]
    return make_batch(images, positive[chosen], negative[chosen], (4, 8, 8), start)


def plainly(kind: str, pipe: Any, tiny: ModuleType, asked: int, strength: float) -> torch.Tensor:
    """The same by a plain call of diffusers, which draws the noise itself, image by image."""
    positive, negative = texts(tiny)
    x = sources().float() / 255
    own: dict[str, Any] = {
        "image2image": {"image": x, "strength": strength},
        "controlnet": {"image": edges(sources())},
    }.get(kind, {"image": x, "mask_image": PAINTED[None, None], "strength": strength})
    if kind.startswith("inpaint"):
        own |= {"height": 16, "width": 16}
    return pipe(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        generator=[image_generator(i) for i in IMAGES],
        num_inference_steps=asked,
        guidance_scale=5.0,
        output_type="latent",
        **own,
    ).images


#: steps, strength -> what diffusers is to be asked for
ASKED = {(4, 1.0): 4, (3, 0.8): 4, (4, 0.5): 8, (3, 0.3): 10}


@pytest.mark.parametrize(("steps", "strength"), ASKED)
@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_plain_diffusers(
    kind: str, name: str, steps: int, strength: float, pipe_for: PipeFor, tiny: ModuleType
):
    if kind == "controlnet" and strength != 1:
        pytest.skip("has no strength")
    pipe = pipe_for(kind)
    wanted = SampleSettings(steps, 5.0, task_of(kind), strength)
    sampler = registry.method(name).prepare(pipe, wanted)
    latents = sampler.sample(batch_of(tiny))
    expected = plainly(kind, pipe, tiny, ASKED[steps, strength], strength)
    size = float(expected.abs().max())
    torch.testing.assert_close(latents, expected, atol=1e-5 * size, rtol=0)
    assert sampler.nfe == 2 * steps


@pytest.mark.parametrize("kind", ["image2image", "inpaint"])
def test_a_stochastic_solvers_later_draws_are_plain_diffusers_too(
    kind: str,
    pipe_for: PipeFor,
    tiny: ModuleType,
    weights: dict[str, str],
):
    settings_ = SampleSettings(4, 5.0, kind, 0.5)
    sampler = registry.method("lcm-lora-cfg", weights=weights).prepare(pipe_for(kind), settings_)
    latents = sampler.sample(batch_of(tiny))
    own = type(pipe_for(kind))(
        **{**pipe_for(kind).components, "unet": sampler.pipeline.unet},
        requires_safety_checker=False,
    )
    own.set_progress_bar_config(disable=True)
    own.scheduler = sampler.pipeline.scheduler
    positive, negative = texts(tiny)
    paint = {"mask_image": PAINTED[None, None], "height": 16, "width": 16}
    expected = own(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        generator=[image_generator(i) for i in IMAGES],
        num_inference_steps=8,
        guidance_scale=1.5,
        output_type="latent",
        image=sources().float() / 255,
        strength=0.5,
        **(paint if kind == "inpaint" else {}),
    ).images
    size = float(expected.abs().max())
    torch.testing.assert_close(latents, expected, atol=1e-5 * size, rtol=0)


# ------------------------------------------------------------------------------ every method


@pytest.mark.parametrize("name", sorted(registry.METHODS))
@pytest.mark.parametrize("task", ["image2image", "inpaint", "controlnet"])
def test_n_steps_are_n_passes_and_images_keep_to_themselves(
    task: str, name: str, pipe_for: PipeFor, tiny: ModuleType, weights: dict[str, str]
):
    """A student's U-Net has a length of step, so guided-distill is asked for the 4-step one's."""
    pipe, method = pipe_for(task), registry.method(name, weights=weights)
    strength = 0.5 if task == "image2image" else 1.0
    steps = 2 if task == "image2image" else 4
    wanted = SampleSettings(steps, 4.0, task, strength)
    if (reason := method.skip(pipe, wanted)) is not None:
        pytest.skip(reason)
    before = {k: type(v) for k, v in pipe.unet.attn_processors.items()}
    try:
        sampler = method.prepare(pipe, wanted)
        whole = sampler.sample(batch_of(tiny))
        if method.nfe_varies:  # guidance is left out where it does nothing
            assert steps <= sampler.nfe <= method.evaluations(wanted) == 2 * steps
        else:
            assert sampler.nfe == method.evaluations(wanted)
            assert steps <= sampler.nfe <= 2 * steps
            part_guided = name in ("tgate", "linear-ag")  # by a plan of fixed steps
            assert part_guided or sampler.nfe in (steps, 2 * steps)
        assert bool(torch.isfinite(whole).all())
        size = float(whole.abs().max())
        part = sampler.sample(batch_of(tiny, (2, 0)))
        torch.testing.assert_close(part, whole[[2, 0]], atol=1e-5 * size, rtol=0)
    finally:
        method.release(pipe)
    assert {k: type(v) for k, v in pipe.unet.attn_processors.items()} == before


@pytest.mark.parametrize("name", ["ddim", "sun"])
@pytest.mark.parametrize("task", ["image2image", "inpaint", "controlnet"])
def test_sources_and_negatives_are_used(
    task: str, name: str, pipe_for: PipeFor, tiny: ModuleType, weights: dict[str, str]
):
    method, pipe = registry.method(name, weights=weights), pipe_for(task)
    sampler = method.prepare(pipe, SampleSettings(4, 4.0, task, 1.0 if task != "inpaint" else 0.8))
    try:
        first = sampler.sample(batch_of(tiny))
        plain = batch_of(tiny)
        other = TaskInputs(plain.inputs.images.flip(0), PAINTED)
        moved = SampleBatch(
            plain.prompt_embeds, plain.negative_embeds, plain.latents, plain.generators, other
        )
        turned = SampleBatch(
            plain.prompt_embeds, plain.prompt_embeds, plain.latents, plain.generators, plain.inputs
        )
        assert not torch.allclose(sampler.sample(moved), first, atol=1e-4)
        assert not torch.allclose(sampler.sample(turned), first, atol=1e-4)
    finally:
        method.release(pipe)


def test_the_controlnet_reads_the_positive_text_alone_beside_sun(
    pipe_for: PipeFor, tiny: ModuleType, weights: dict[str, str]
):
    pipe, method = pipe_for("controlnet"), registry.method("sun", weights=weights)
    read: list[torch.Tensor] = []
    handle = pipe.controlnet.register_forward_pre_hook(
        lambda m, a, k: read.append(k["encoder_hidden_states"]), with_kwargs=True
    )
    try:
        method.prepare(pipe, SampleSettings(4, 4.0, "controlnet")).sample(batch_of(tiny))
    finally:
        handle.remove()
        method.release(pipe)
    assert len(read) == 4
    assert all(torch.equal(states, texts(tiny)[0]) for states in read)


# ------------------------------------------------------------------------------ reasons


def test_a_pipeline_of_another_task_is_a_reason(pipe_for: PipeFor):
    reason = registry.method("ddim").skip(pipe_for("text2image"), SampleSettings(4, 3.0, "inpaint"))
    assert reason == (
        "task inpaint needs a StableDiffusionInpaintPipeline, given a StableDiffusionPipeline"
    )


def test_a_controlnet_for_another_unet_is_a_reason(pipe_for: PipeFor, tiny: ModuleType, tmp_path):
    wide = tiny.pipeline(tmp_path, block_out_channels=(16, 48))
    parts = {**wide.components, "controlnet": pipe_for("controlnet").controlnet}
    pipe = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    assert "block_out_channels" in (misfit(pipe, "controlnet") or "")
    assert misfit(pipe_for("controlnet"), "controlnet") is None


def test_the_schedule_bounds_what_strength_asks_for(pipe_for: PipeFor):
    pipe, method = pipe_for("image2image"), registry.method("ddim")
    assert method.skip(pipe, SampleSettings(500, 3.0, "image2image", 0.5)) is None
    reason = method.skip(pipe, SampleSettings(501, 3.0, "image2image", 0.5))
    assert reason == "1002 steps asked for 501 at strength 0.5, the schedule has 1000"


def test_no_sources_and_no_mask_are_told(pipe_for: PipeFor, tiny: ModuleType):
    positive, negative = texts(tiny)
    sampler = registry.method("ddim").prepare(
        pipe_for("inpaint"), SampleSettings(2, 1.0, "inpaint")
    )
    bare = make_batch(IMAGES, positive, negative, (4, 8, 8))
    with pytest.raises(UserError, match="given no source images"):
        sampler.sample(bare)
    maskless = make_batch(IMAGES, positive, negative, (4, 8, 8), TaskInputs(sources()))
    with pytest.raises(UserError, match="given no mask"):
        sampler.sample(maskless)


# ------------------------------------------------------------------------------ parts


@given(st.integers(1, 200), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_asked_steps_are_the_fewest_that_leave_n(steps: int, strength: float):
    asked = asked_steps(steps, strength)
    assert min(int(asked * strength), asked) == steps
    assert int((asked - 1) * strength) < steps


def test_at_half_strength_all_numbers_of_steps_start_at_the_same_time():
    assert [asked_steps(n, 0.5) / n for n in (1, 2, 4, 8, 12, 25)] == [2] * 6


def test_encoding_undoes_decoding_of_scale_and_shift_and_takes_the_mode():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4, scaling_factor=0.5
        )
    vae.register_to_config(shift_factor=0.25)
    vae.eval().requires_grad_(False)
    pipe = SimpleNamespace(vae=vae, vae_scale_factor=1)
    x = sources().float() / 127.5 - 1
    z = encode(pipe, x)
    assert torch.equal(encode(pipe, x), z)
    mean = vae.encode(x).latent_dist.mean
    torch.testing.assert_close(z / 0.5 + 0.25, mean)
    assert decode_latents(pipe, z).shape == x.shape


def test_text_pipeline_shares_the_networks(pipe_for: PipeFor):
    pipe = pipe_for("controlnet")
    plain = text_pipeline(pipe)
    assert type(plain) is diffusers.StableDiffusionPipeline
    assert plain.unet is pipe.unet
    assert "controlnet" not in plain.components


def test_inpainting_leaves_the_known_latents_as_they_were(pipe_for: PipeFor, tiny: ModuleType):
    pipe = pipe_for("inpaint")
    out = registry.method("ddim").prepare(pipe, SampleSettings(3, 4.0, "inpaint"))
    latents = out.sample(batch_of(tiny))
    known = encode(pipe, sources().float() / 127.5 - 1)
    inside = PAINTED[::2, ::2].bool()
    torch.testing.assert_close(latents[..., ~inside], known[..., ~inside])
    assert not torch.allclose(latents[..., inside], known[..., inside], atol=0.01)
