"""What the frozen parts of a base make of texts, images and times."""

from __future__ import annotations

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.training.diffusion import Schedule


def _full_precision(device: torch.device) -> torch.autocast:
    """What is frozen and no U-Net runs in float32, whatever the loop's autocast says."""
    return torch.autocast(device.type, enabled=False)


@torch.no_grad()
def encode_texts(pipeline: Pipeline, texts: list[str]) -> Tensor:
    """Embeddings (n, tokens, width) as the pipeline's ``encode_prompt`` gives them.

    Without its warning at each text that is cut, which most negative prompts are.
    """
    encoder, words = pipeline.text_encoder, pipeline.tokenizer
    ids = words(
        texts,
        padding="max_length",
        max_length=words.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    with _full_precision(encoder.device):
        return encoder(ids.to(encoder.device))[0].float()


@torch.no_grad()
def encode_images(pipeline: Pipeline, images: Tensor, generator: torch.Generator) -> Tensor:
    """Scaled latents x_0 (n, C, h, w) of images (n, 3, H, W) in -1..1."""
    vae = pipeline.vae
    images = images.contiguous(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU
    with _full_precision(vae.device):
        encoded = vae.encode(images.to(vae.device, vae.dtype))
        z = (
            encoded.latents
            if hasattr(encoded, "latents")
            else encoded.latent_dist.sample(generator)
        )
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (z.float() - shift) * vae.config.scaling_factor


def schedule_of(pipeline: Pipeline) -> Schedule:
    """The noise schedule of a base that predicts noise; UserError for another."""
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise UserError(f"given a base that predicts {kind!r}, expected the noise ('epsilon')")
    return Schedule.of(pipeline.scheduler.alphas_cumprod.float().to(pipeline.unet.device))
