"""What a sampler works on: texts, and the noise that belongs to each image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageId:
    """An image's place in the experiment: the same id means the same noise everywhere."""

    prompt_id: str
    seed: int


@dataclass(frozen=True)
class TaskInputs:
    """What B images start from beside their text.

    images: (B, 3, H, W) uint8 sources. mask: (H, W) float 0 or 1, where 1 is to be painted.
    """

    images: Tensor
    mask: Tensor | None = None


def image_generator(image: ImageId) -> torch.Generator:
    """The image's own CPU generator; neither batch nor order nor machine changes what it draws."""
    digest = hashlib.sha256(f"sunbench/{image.prompt_id}/{image.seed}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class SampleBatch:
    """Inputs of B images.

    Attributes:
        prompt_embeds: (B, tokens, width) of the positive prompts.
        negative_embeds: (B, tokens, width) of the negative prompts.
        latents: (B, channels, h, w) float32 standard normal noise, on CPU.
        generators: one per image, already past the draw of ``latents``.
        inputs: source images, for tasks that start from some.
    """

    prompt_embeds: Tensor
    negative_embeds: Tensor
    latents: Tensor
    generators: list[torch.Generator]
    inputs: TaskInputs | None = None

    def __len__(self) -> int:
        return len(self.latents)


def make_batch(
    images: list[ImageId],
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    shape: tuple[int, int, int],
    inputs: TaskInputs | None = None,
) -> SampleBatch:
    """Draw each image's initial latent (channels, h, w) from its own generator."""
    generators = [image_generator(image) for image in images]
    latents = torch.stack([torch.randn(shape, generator=g) for g in generators])
    return SampleBatch(prompt_embeds, negative_embeds, latents, generators, inputs)


def noise_hash(latent: Tensor) -> str:
    """Fingerprint of one initial latent; reference and candidate must agree on it."""
    data = latent.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:16]
