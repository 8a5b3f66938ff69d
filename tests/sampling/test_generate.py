"""Text, noise, sampler and decoder together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from sunbench import registry
from sunbench.errors import NotFinite
from sunbench.prompts import Prompt
from sunbench.sampling import (
    Cell,
    ImageId,
    SampleSettings,
    TextCache,
    decode_latents,
    generate,
    image_generator,
    latent_shape,
    noise_hash,
)
from sunbench.sampling.counter import UNetCounter

ROWS = [Prompt("p0", "a red apple", "dark"), Prompt("p1", "a boat"), Prompt("p2", "a cat", "dark")]
CELL = Cell(
    model="tiny",
    weights=(),
    method="ddim",
    method_content=(),
    steps=2,
    guidance_scale=3.0,
    task="text2image",
    prompts="rows",
    prompts_hash="",
    n_prompts=3,
    seeds=(5, 9),
    resolution=16,
    dtype="float32",
)


@pytest.fixture
def texts(pipeline: Any, tmp_path: Path) -> dict[str, torch.Tensor]:
    words = [t for row in ROWS for t in (row.text, row.negative)]
    return TextCache(pipeline, tmp_path).block(words)


def generated_images(pipeline: Any, texts: dict[str, torch.Tensor], indices: range) -> Any:
    method = registry.method("ddim")
    sampler = method.prepare(pipeline, SampleSettings(2, 3.0))
    return generate(CELL, pipeline, sampler, ROWS, indices, texts)


def test_pictures_are_uint8_with_the_noise_of_prompt_and_seed(pipeline: Any, texts: Any):
    generated = generated_images(pipeline, texts, range(6))
    assert generated.images.shape == (6, 3, 16, 16)
    assert generated.images.dtype == torch.uint8
    ids = [ImageId(f"p{i // 2}", (5, 9)[i % 2]) for i in range(6)]
    noises = [torch.randn((4, 8, 8), generator=image_generator(i)) for i in ids]
    assert generated.noise_hashes == [noise_hash(z) for z in noises]
    assert generated.nfe == 4
    assert min(generated.sample_seconds, generated.decode_seconds) > 0


def test_a_part_of_the_indices_gives_the_same_pictures(pipeline: Any, texts: Any):
    whole, part = (
        generated_images(pipeline, texts, range(6)),
        generated_images(pipeline, texts, range(3, 5)),
    )
    assert part.noise_hashes == whole.noise_hashes[3:5]
    gap = (part.images.int() - whole.images[3:5].int()).abs()
    assert int(gap.max()) <= 1


def test_pictures_are_those_of_the_plain_pipeline(pipeline: Any, texts: Any):
    """diffusers' own decoding and rounding, whole images."""
    generated = generated_images(pipeline, texts, range(6))
    noises = [
        torch.randn((4, 8, 8), generator=image_generator(ImageId(f"p{i // 2}", (5, 9)[i % 2])))
        for i in range(6)
    ]
    plain = pipeline(
        prompt=[ROWS[i // 2].text for i in range(6)],
        negative_prompt=[ROWS[i // 2].negative for i in range(6)],
        latents=torch.stack(noises),
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="np",
    ).images
    expected = torch.from_numpy((plain * 255).round()).permute(0, 3, 1, 2)
    gap = (generated.images.float() - expected).abs()
    assert float(gap.max()) <= 1  # text was encoded in another batch
    assert float(gap.mean()) < 0.01
    assert generated.images.float().std() > 5


def test_decoding_undoes_scale_and_shift(pipeline: Any):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = decode_latents(pipeline, latents)
    config = dict(pipeline.vae.config) | {"scaling_factor": 0.5, "shift_factor": 0.25}
    pipeline.vae.register_to_config(**config)
    try:
        assert torch.equal(decode_latents(pipeline, (latents - 0.25) * 0.5), plain)
    finally:
        pipeline.vae.register_to_config(scaling_factor=1.0, shift_factor=None)


def test_parts_of_a_batch_decode_to_the_same_images(pipeline: Any, monkeypatch: pytest.MonkeyPatch):
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = decode_latents(pipeline, latents)
    monkeypatch.setattr("sunbench.sampling.pipeline.DECODED_PIXELS", 2 * whole[0, 0].numel())
    sizes = decoded_sizes(pipeline.vae, monkeypatch)
    gap = (decode_latents(pipeline, latents).int() - whole.int()).abs()
    assert sizes == [2, 2, 1]
    assert int(gap.max()) <= 1


def decoded_sizes(vae: Any, monkeypatch: pytest.MonkeyPatch, most: int = 99) -> list[int]:
    """Numbers of images decoded at once; more than so many run out of memory."""
    sizes, real = list[int](), vae.decode

    def watched(z: torch.Tensor, **more: Any) -> Any:
        sizes.append(len(z))
        if len(z) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(z, **more)

    monkeypatch.setattr(vae, "decode", watched)
    return sizes


def test_a_decoder_without_memory_takes_fewer_at_once(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
):
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = decode_latents(pipeline, latents)
    sizes = decoded_sizes(pipeline.vae, monkeypatch, most=2)
    assert int((decode_latents(pipeline, latents).int() - whole.int()).abs().max()) <= 1
    assert sizes == [8, 4, 2, 2, 2, 2]
    decoded_sizes(pipeline.vae, monkeypatch, most=0)
    with pytest.raises(torch.OutOfMemoryError):
        decode_latents(pipeline, latents)


def test_what_overflows_in_float16_is_decoded_in_float32(monkeypatch: pytest.MonkeyPatch):
    """The first convolution reaches a million, the normalization after it brings all back."""
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4).eval()
    vae.decoder.conv_in.weight.data *= 1e4
    latents = 100 * torch.randn(3, 4, 8, 8)
    latents[1] /= 1e4  # small enough for float16
    plain = SimpleNamespace(vae=vae, vae_scale_factor=1)
    expected = decode_latents(plain, latents)
    vae.half()
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    sizes = decoded_sizes(vae, monkeypatch)
    decoded = decode_latents(plain, latents)
    assert sizes == [3, 2]
    assert vae.dtype == torch.float16
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert int((decoded[[0, 2]].int() - expected[[0, 2]].int()).abs().max()) <= 2
    latents[0] = float("nan")
    with pytest.raises(NotFinite, match="decoded images are not finite"):
        decode_latents(plain, latents)


def test_latent_shape_follows_the_resolution(pipeline: Any):
    assert latent_shape(pipeline) == (4, 8, 8)
    assert latent_shape(pipeline, 32) == (4, 16, 16)


def test_counter_counts_rows_calls_and_nothing_after_it(pipeline: Any, tiny: ModuleType):
    x, text = torch.zeros(3, 4, 8, 8), torch.zeros(3, 24, tiny.WIDTH)
    with UNetCounter(pipeline.unet) as counter, torch.no_grad():
        pipeline.unet(x, 5, text)
        pipeline.unet(sample=x[:2], timestep=5, encoder_hidden_states=text[:2])
    with torch.no_grad():
        pipeline.unet(x, 5, text)
    assert (counter.rows, counter.calls) == (5, 2)


def test_resolution_of_the_cell_is_that_of_the_pictures(pipeline: Any, texts: Any):
    sampler = registry.method("ddim").prepare(pipeline, SampleSettings(1, 1.0))
    wide = replace(CELL, resolution=32, guidance_scale=1.0, steps=1)
    generated = generate(wide, pipeline, sampler, ROWS, range(1), texts)
    assert generated.images.shape == (1, 3, 32, 32)
