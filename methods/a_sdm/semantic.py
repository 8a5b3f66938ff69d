"""Semantic-aware supervision of A-SDM (arXiv 2312.15516, section 2.5): a frozen image network.

The paper puts a VGG "at the end of the teacher and student model" and aligns its levels. It does
not say how three channels come out of four, at which levels, or with which weight. Here each noise
gives an estimate of x_0, a view of which has three channels; the levels' mean squared errors are
summed, each image's weighted by alpha_t^2, without which the noisiest times would be all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.metrics.networks.availability import fetching
from sunbench.models import LoadedModel
from sunbench.models.protocols import Pipeline
from sunbench.store.tensors import load_weights, refuse_pickle
from sunbench.training.data import TrainingImages
from sunbench.training.diffusion import Schedule, denoised
from sunbench.training.encode import encode_images

#: VGG16's relu1_2, relu2_2, relu3_3 and relu4_3.
LEVELS = (3, 8, 15, 22)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Images by which the projection of latents to colors is fitted.
FITTED_ON = 64


class Levels(Protocol):
    """A frozen network's features of images (B, 3, H, W) in -1..1, level by level."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """One tensor per level."""
        ...


class SequentialLevels(nn.Module):
    """The outputs of some layers of a chain, none followed by one that works in place."""

    def __init__(
        self,
        layers: nn.Sequential,
        levels: Sequence[int],
        mean: tuple[float, ...] = (0.5,) * 3,
        std: tuple[float, ...] = (0.5,) * 3,
    ) -> None:
        super().__init__()
        self.layers, self.levels = layers.eval().requires_grad_(False), tuple(levels)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        """One tensor per level."""
        x = (images / 2 + 0.5 - self.mean) / self.std
        out = []
        for i, layer in enumerate(self.layers[: self.levels[-1] + 1]):
            x = layer(x)
            if i in self.levels:
                out.append(x)
        return out


def vgg16(file: str) -> SequentialLevels:
    """torchvision's VGG16: a .safetensors file of it, or its ImageNet weights over the network."""
    from torchvision.models import VGG16_Weights
    from torchvision.models import vgg16 as network

    if file:
        net = network()
        _load(net, file)
    else:
        with fetching("torchvision's VGG16; semantic_file = PATH names a .safetensors of it"):
            net = network(weights=VGG16_Weights.IMAGENET1K_V1)
    return SequentialLevels(net.features, LEVELS, MEAN, STD)


def zoo_reader(file: str) -> SequentialLevels:
    """The zoo's reader, a small network that names what an image shows; its blocks are levels.

    file: its weights as .safetensors; empty: those that come with the zoo.
    """
    from sunbench.zoo import READER, weights
    from sunbench.zoo.world.reader import Reader

    reader = Reader()
    _load(reader, file or str(weights() / READER / "model.safetensors"))
    return SequentialLevels(reader.body, range(len(reader.body)))


def _load(network: nn.Module, file: str) -> None:
    path = Path(file)
    refuse_pickle(file)
    if not path.is_file():
        raise UserError(f"given semantic_file {file!r}, expected a .safetensors file")
    tensors, own = load_weights(path), network.state_dict()
    wrong = [k for k in tensors.keys() | own.keys() if _shape(tensors, k) != _shape(own, k)]
    if wrong:
        raise UserError(
            f"{file}: weights of another network, {len(wrong)} tensors differ, such as {min(wrong)}"
        )
    network.load_state_dict(tensors)


def _shape(table: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(table[name].shape) if name in table else None


# ------------------------------------------------------------------------------ views


@dataclass(frozen=True)
class Projected:
    """Colors as a linear map of a latent's channels: cheap, an image at the latents' size.

    matrix: (C + 1, 3), the last row an offset. side: pixels to enlarge it to.
    """

    matrix: Tensor
    side: int

    def __call__(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, side, side) in about -1..1."""
        matrix = self.matrix.to(latents)
        rgb = torch.einsum("bchw,cr->brhw", latents, matrix[:-1]) + matrix[-1][:, None, None]
        return F.interpolate(rgb, self.side, mode="bilinear")


@dataclass(frozen=True)
class Decoded:
    """Images by the base's own decoder, which gradients go through."""

    vae: Any

    def __call__(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W) in about -1..1."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        z = latents.to(self.vae.dtype) / self.vae.config.scaling_factor + shift
        out: Tensor = self.vae.decode(z, return_dict=False)[0]
        return out.float()


@torch.no_grad()
def fitted_projection(pipeline: Pipeline, data: TrainingImages, side: int) -> Projected:
    """The least squares map from latents to colors on a few training images."""
    g = torch.Generator().manual_seed(0)
    images = data.draw(FITTED_ON, g)[0]
    z = encode_images(pipeline, images, g).cpu()
    small = F.adaptive_avg_pool2d(images, (z.shape[2], z.shape[3]))
    rows = z.movedim(1, 3).flatten(0, 2)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    colors = small.movedim(1, 3).flatten(0, 2).double()
    return Projected(torch.linalg.lstsq(rows, colors).solution.float(), side)


# ------------------------------------------------------------------------------ loss


@dataclass(frozen=True)
class SemanticLoss:
    """The distance of two predictions as images, by the levels of a frozen network."""

    schedule: Schedule
    view: Any
    levels: Levels

    def __call__(self, x: Tensor, index: Tensor, aim: Tensor, out: Tensor) -> Tensor:
        """x_t (B, C, h, w), timesteps (B,), noise by teacher and student -> a number."""
        at = self.schedule.at(index)
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                theirs = self.levels(self.view(denoised(x, aim, at)))
            ours = self.levels(self.view(denoised(x, out, at)))
            weight = at.alpha.flatten().square()
            errors = [
                (weight * (a - b).square().flatten(1).mean(1)).mean()
                for a, b in zip(theirs, ours, strict=True)
            ]
            return torch.stack(errors).sum()


NETWORKS = {"vgg16": vgg16, "zoo-reader": zoo_reader}


def semantic_loss(
    loaded: LoadedModel, data: TrainingImages, schedule: Schedule, settings: Any
) -> SemanticLoss:
    """By a training's settings; UserError where the network's weights cannot be had."""
    pipeline, side = loaded.pipeline, loaded.card.resolution
    levels = NETWORKS[settings.semantic_network](settings.semantic_file).to(pipeline.unet.device)
    if settings.semantic_view == "decoded":
        return SemanticLoss(schedule, Decoded(pipeline.vae), levels)
    return SemanticLoss(schedule, fitted_projection(pipeline, data, side), levels)
