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

    def get_guidance_scale_embedding(self, *args: Any, **options: Any) -> Any:
        """The input of guidance of a distilled U-Net."""

    def encode_prompt(self, *args: Any, **options: Any) -> Any:
        """Embeddings of prompts and of negative prompts."""

    def set_progress_bar_config(self, **options: Any) -> None:
        """Settings of its progress bar."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Images or latents of a batch."""

    def load_lora_weights(self, *args: Any, **options: Any) -> None:
        """Load a LoRA as an adapter."""

    def set_adapters(self, *args: Any, **options: Any) -> None:
        """Choose adapters and their scales."""

    def fuse_lora(self, *args: Any, **options: Any) -> None:
        """Merge the chosen adapters into the weights."""

    def unload_lora_weights(self, *args: Any, **options: Any) -> None:
        """Drop all adapters."""
