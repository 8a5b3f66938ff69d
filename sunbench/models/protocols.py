"""What this project asks of a diffusers pipeline."""

from __future__ import annotations

from typing import Any, Protocol


class Pipeline(Protocol):
    """A Stable Diffusion pipeline of diffusers, as far as every task and method uses it.

    Its parts are modules of diffusers and transformers, which carry no types of their own here.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @property
    def components(self) -> dict[str, Any]:
        """Its parts by the names of its constructor."""

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per side of a latent's position."""

    def encode_prompt(self, *args: Any, **options: Any) -> Any:
        """Embeddings of prompts and of negative prompts."""

    def set_progress_bar_config(self, **options: Any) -> None:
        """Settings of its progress bar."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Images or latents of a batch."""
