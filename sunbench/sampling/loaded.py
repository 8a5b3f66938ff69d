"""A method on somebody's diffusers pipeline, called as the pipeline is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from sunbench.errors import UserError
from sunbench.sampling.batch import ImageId, make_batch
from sunbench.sampling.method import Method, SampleSettings
from sunbench.sampling.pipeline import decode, latent_shape

if TYPE_CHECKING:
    from torch import Tensor


class LoadedMethod:
    """Makes images of prompts by a method; the pipeline is as before after every call.

    An image's noise comes from its prompt and seed alone, so methods can be compared image by
    image: the same prompt and seed start from the same noise in each.
    """

    def __init__(self, method: Method, pipeline: Any) -> None:
        self.method, self.pipeline = method, pipeline

    def __call__(
        self,
        prompts: str | Sequence[str],
        negative_prompts: str | Sequence[str] = "",
        *,
        num_inference_steps: int = 4,
        guidance_scale: float = 7.5,
        seed: int = 0,
    ) -> list[Image.Image]:
        """An image per prompt.

        Errors: UserError where the method cannot run on this pipeline or at these settings.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        negatives = (
            [negative_prompts] * len(texts)
            if isinstance(negative_prompts, str)
            else list(negative_prompts)
        )
        if not texts or len(negatives) != len(texts):
            raise UserError(
                f"given {len(texts)} prompts and {len(negatives)} negative prompts, expected as"
                " many of each, at least one"
            )
        settings = SampleSettings(num_inference_steps, guidance_scale)
        reason = self.method.skip(self.pipeline, settings)
        if reason is not None:
            raise UserError(f"{self.method.name}: {reason}")
        batch = make_batch(
            [ImageId(text, seed) for text in texts],
            self._encode(texts),
            self._encode(negatives),
            latent_shape(self.pipeline),
        )
        try:
            latents = self.method.prepare(self.pipeline, settings).sample(batch)
        finally:
            self.method.release(self.pipeline)
        pixels = decode(self.pipeline, latents).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(p) for p in pixels]

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        device = self.pipeline.text_encoder.device
        embeds: Tensor = self.pipeline.encode_prompt(
            texts, device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return embeds.cpu()
