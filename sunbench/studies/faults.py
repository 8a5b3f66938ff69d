"""Faults that a benchmark of images must notice, planted into the images of an honest cell."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import (
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
)

from sunbench.errors import UserError


@dataclass(frozen=True)
class Material:
    """Images (N, 3, H, W) uint8 of cells that show the same prompts in the same order.

    images: the honest cell, into which faults are planted. floor: the reference from other noise.
    cells: images of further cells that stand for a fault, by its name. clusters: the prompt of
    each image; all prompts have equally many.
    """

    reference: Tensor
    images: Tensor
    floor: Tensor
    cells: dict[str, Tensor]
    clusters: np.ndarray

    def __post_init__(self) -> None:
        for name, other in {"reference": self.reference, "floor": self.floor, **self.cells}.items():
            if other.shape != self.images.shape:
                raise UserError(
                    f"{name}: given images of {tuple(other.shape)}, expected"
                    f" {tuple(self.images.shape)} as the cell they are compared with"
                )


def _noise(x: Tensor, sigma: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return _uint8(x + sigma * torch.randn(x.shape, generator=g))


def _uint8(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    def one(image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    return torch.stack([one(image) for image in x])


def _next_prompt(m: Material) -> Tensor:
    """Each image under the prompt before it."""
    return m.images.roll(-int((m.clusters == m.clusters[0]).sum()), 0)


def _half_duplicated(m: Material) -> Tensor:
    """The second half of the set shows the first half's images once more."""
    half = len(m.images) // 2
    return torch.cat([m.images[: len(m.images) - half], m.images[:half]])


def _one_ground(x: Tensor) -> Tensor:
    """The color of the corner pixel becomes magenta wherever it stands, in its light and shade."""
    corner = x[:, :, :1, :1].float()
    total = corner.sum(1, keepdim=True).clamp(min=1)
    light = x.float().sum(1, keepdim=True).clamp(min=1) / total
    ground = (x - light * corner).abs().amax(1, keepdim=True) <= 12
    ground &= (light > 0.5) & (light < 2)
    magenta = torch.tensor([200.0, 30.0, 160.0]).view(1, 3, 1, 1)
    return torch.where(ground, _uint8(light * magenta), x)


def _batch_coupled(x: Tensor, batch: int = 8) -> Tensor:
    """Each image takes over a quarter of its batch's mean, as a norm over a batch would do."""
    return torch.cat([_uint8(0.75 * p + 0.25 * p.float().mean(0)) for p in x.float().split(batch)])


def _few_pixels(x: Tensor) -> Tensor:
    """A block of an eighth of the side goes black in the middle of each image."""
    out, side = x.clone(), max(1, x.shape[-1] // 8)
    at = (x.shape[-1] - side) // 2
    out[..., at : at + side, at : at + side] = 0
    return out


def _half_resolution(x: Tensor) -> Tensor:
    small = torch.nn.functional.avg_pool2d(x.float(), 2)
    return _uint8(torch.nn.functional.interpolate(small, x.shape[-2:], mode="bilinear"))


#: Name -> what it makes of the material; `Material.cells` adds those that need sampling.
FAULTS: dict[str, Callable[[Material], Tensor]] = {
    "black": lambda m: torch.zeros_like(m.images),
    "gray": lambda m: torch.full_like(m.images, 128),
    "noise alone": lambda m: _noise(torch.full_like(m.images, 128), 64),
    "some noise": lambda m: _noise(m.images, 10),
    "blur": lambda m: gaussian_blur(m.images, [5, 5], [1.2, 1.2]),
    "JPEG 30": lambda m: _jpeg(m.images, 30),
    "half resolution": lambda m: _half_resolution(m.images),
    "wrong seed": lambda m: m.floor,
    "prompts swapped": _next_prompt,
    "half duplicated": _half_duplicated,
    "another ground color": lambda m: _one_ground(m.images),
    "shifted 2 px": lambda m: m.images.roll(2, -1),
    "mirrored": lambda m: m.images.flip(-1),
    "upside down": lambda m: m.images.flip(-2),
    "gamma 1.3": lambda m: adjust_gamma(m.images, 1.3),
    "hue turned": lambda m: adjust_hue(m.images, 0.1),
    "less saturation": lambda m: adjust_saturation(m.images, 0.6),
    "red and blue exchanged": lambda m: m.images.flip(1),
    "batch-coupled": lambda m: _batch_coupled(m.images),
    "black block": lambda m: _few_pixels(m.images),
}


def honest_rerun(m: Material, seed: int) -> Tensor:
    """What another batch size or thread count does: one level of 255 in one pixel of a thousand."""
    g = torch.Generator().manual_seed(seed)
    where = torch.rand(m.images.shape, generator=g) < 1e-3
    step = torch.randint(0, 2, m.images.shape, generator=g) * 2 - 1
    return _uint8(m.images.int() + where * step)
