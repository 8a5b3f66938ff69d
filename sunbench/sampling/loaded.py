"""A method on somebody's diffusers pipeline, called as the pipeline is."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.sampling.batch import ImageId, make_batch
from sunbench.sampling.generate import sample_images
from sunbench.sampling.method import Method, SampleSettings
from sunbench.sampling.pipeline import latent_shape
from sunbench.sampling.texts import encode_prompts


class LoadedMethod:
    """Makes images of prompts by a method; the pipeline is as before after every call.

    An image's noise comes from its prompt and seed alone, so methods can be compared image by
    image: the same prompt and seed start from the same noise in each.
    """

    def __init__(self, method: Method, pipeline: Pipeline) -> None:
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
        texts, negatives = _paired(prompts, negative_prompts)
        settings = SampleSettings(num_inference_steps, guidance_scale)
        reason = self.method.skip(self.pipeline, settings)
        if reason is not None:
            raise UserError(f"{self.method.name}: {reason}")
        batch = make_batch(
            [ImageId(text, seed) for text in texts],
            encode_prompts(self.pipeline, texts),
            encode_prompts(self.pipeline, negatives),
            latent_shape(self.pipeline),
        )
        images = sample_images(self.pipeline, self.method, settings, batch)
        return [Image.fromarray(p) for p in images.permute(0, 2, 3, 1).cpu().numpy()]


def _paired(
    prompts: str | Sequence[str], negatives: str | Sequence[str]
) -> tuple[list[str], list[str]]:
    """Prompts and as many negative prompts, at least one of each."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    against = [negatives] * len(texts) if isinstance(negatives, str) else list(negatives)
    if not texts or len(against) != len(texts):
        raise UserError(
            f"given {len(texts)} prompts and {len(against)} negative prompts, expected as"
            " many of each, at least one"
        )
    return texts, against
