"""Real images of the held-out prompts, for distances to data and not to a model.

The images can be composed again from the art; what is shipped are their features under the zoo's
scorer, eight bits per number, one row per prompt, and the gradient magnitude of each, so that a
comparison with real data exists offline at any number of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunbench.zoo.world.captions import HeldOutPrompt
from sunbench.zoo.world.images import Sprites, Variation


def real_images(sprites: Sprites, styles: list[int], prompts: Sequence[HeldOutPrompt]) -> Tensor:
    """One image of each prompt's scene in one of the styles: uint8 (N, 3, 64, 64).

    What the scene leaves open is drawn from the prompt's id alone.
    """
    images = []
    for prompt in prompts:
        g = torch.Generator().manual_seed(int(prompt.scene.id, 16))
        style = torch.tensor(styles)[torch.randint(len(styles), (1,), generator=g)]
        rows = torch.tensor([prompt.scene.row])
        images.append(sprites.compose(rows, style, Variation.sample(1, g)))
    return (torch.cat(images) * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Quantized:
    """Features (N, D) at eight bits: ``code * step + low`` per dimension."""

    code: Tensor  # (N, D) uint8
    low: Tensor  # (D,)
    step: Tensor  # (D,)

    @classmethod
    def of(cls, features: Tensor) -> Quantized:
        """The nearest of 256 evenly spaced values in each dimension."""
        low, high = features.amin(0), features.amax(0)
        step = ((high - low) / 255).clamp_min(torch.finfo(features.dtype).tiny)
        return cls(((features - low) / step).round().to(torch.uint8), low, step)

    @property
    def values(self) -> Tensor:
        """Features (N, D) float32."""
        return self.code.float() * self.step + self.low


@dataclass(frozen=True)
class RealFeatures:
    """Of N real images: features (N, D), and mean gradient magnitudes (N,)."""

    features: Quantized
    gradients: Tensor

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        save_file({**vars(self.features), "gradients": self.gradients}, file)

    @classmethod
    def load(cls, file: Path) -> RealFeatures:
        """Read what ``save`` has written."""
        tensors = load_file(file)
        gradients = tensors.pop("gradients")
        return cls(Quantized(**tensors), gradients)
