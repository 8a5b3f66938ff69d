"""What a timed batch is made of: texts to encode, and a batch of noise for the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sunbench.models.protocols import Pipeline
from sunbench.sampling import ImageId, SampleBatch, TaskInputs, latent_shape, make_batch

#: Used where the caller has no prompts of its own.
PROMPTS = (("a photograph", "blurry"),)


@dataclass(frozen=True)
class TimingInputs:
    """Texts and noise of one batch size; the same images in every round.

    prompts: (prompt, negative prompt) of each image.
    """

    pipeline: Pipeline
    prompts: tuple[tuple[str, str], ...]
    resolution: int
    source: TaskInputs | None = None

    @torch.no_grad()
    def encode(self, reads_negative: bool) -> tuple[Tensor, Tensor]:
        """Prompt and negative prompt embeddings (B, tokens, width); the former twice if unread."""
        if getattr(self.pipeline, "tokenizer", None) is None:
            return self._encode_tokens(reads_negative)
        texts, negatives = (list(column) for column in zip(*self.prompts, strict=True))
        prompt, negative = self.pipeline.encode_prompt(
            texts, self.pipeline.unet.device, 1, reads_negative, negatives
        )
        return prompt, prompt if negative is None else negative

    def _encode_tokens(self, reads_negative: bool) -> tuple[Tensor, Tensor]:
        """The same work on fixed tokens, for a pipeline of random weights without a tokenizer."""
        encoder = self.pipeline.text_encoder
        tokens = self._tokens()
        prompt = encoder(tokens)[0]
        return prompt, encoder(tokens)[0] if reads_negative else prompt

    def _tokens(self) -> Tensor:
        config = self.pipeline.text_encoder.config
        shape = (len(self.prompts), config.max_position_embeddings)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, config.vocab_size, shape, generator=generator)
        tokens[:, -1] = config.eos_token_id
        return tokens.to(self.pipeline.unet.device)

    def batch(self) -> SampleBatch:
        """Fresh noise generators and the images' latents; embeddings are still to be filled in."""
        images = [ImageId("timing", i) for i in range(len(self.prompts))]
        shape = latent_shape(self.pipeline, self.resolution)
        empty = torch.empty(len(images), 0)
        return make_batch(images, empty, empty, shape, self._sources())

    def _sources(self) -> TaskInputs | None:
        if self.source is None:
            return None
        count = len(self.prompts)
        return replace(self.source, images=self.source.images[:1].expand(count, -1, -1, -1))


def cycled(prompts: Sequence[tuple[str, str]], count: int) -> tuple[tuple[str, str], ...]:
    """So many prompts, from the start again where there are too few."""
    texts = tuple(prompts) or PROMPTS
    return tuple(texts[i % len(texts)] for i in range(count))
