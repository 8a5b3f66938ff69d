"""A ControlNet on edges for the zoo, trained on the base and used with every fine-tune.

Zhang et al. 2023, arXiv 2302.05543: a copy of the U-Net's encoder half that reads an image of edges
and adds to the frozen U-Net's skips through convolutions that start at zero. Captions leave
choices open, as everywhere in the zoo, so the edges have something to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from sunbench.sampling.edges import edges
from sunbench.training import LoopSettings, fit
from sunbench.training.prefetch import Prefetcher
from sunbench.zoo.world.captions import recipe, sample_captions, style_indices
from sunbench.zoo.world.clip import tokenize
from sunbench.zoo.world.images import Sprites, batch_maker
from sunbench.zoo.world.text import build_tokenizer
from sunbench.zoo.world.unet import noise_weights, spread_timesteps

Encode = Callable[[Tensor], Tensor]


def new_controlnet(unet: UNet2DConditionModel, channels: list[int]) -> ControlNetModel:
    """An untrained ControlNet for a U-Net: its encoder's weights, then zeros.

    channels: on the way from the condition's resolution to the latents'.
    """
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=tuple(channels))


class Controlled(nn.Module):
    """A frozen U-Net and its text encoder with a ControlNet that learns."""

    def __init__(
        self, control: ControlNetModel, unet: UNet2DConditionModel, encoder: CLIPTextModel
    ) -> None:
        super().__init__()
        self.control: Any = control
        self.unet: Any = unet.eval().requires_grad_(False)
        self.encoder: Any = encoder.eval().requires_grad_(False)

    def forward(self, x_t: Tensor, t: Tensor, ids: Tensor, condition: Tensor) -> Tensor:
        """Predicted noise (N, C, h, w); condition: edges (N, 3, H, W)."""
        with torch.no_grad():
            context = self.encoder(ids).last_hidden_state
        down, mid = self.control(x_t, t, context, controlnet_cond=condition, return_dict=False)
        out = self.unet(
            x_t,
            t,
            context,
            down_block_additional_residuals=list(down),
            mid_block_additional_residual=mid,
        )
        return out.sample.float()


def train_controlnet(
    sprites: Sprites,
    encode: Encode,
    net: Controlled,
    folder: Path,
    device: str = "cpu",
    behind: int = 0,
) -> ControlNetModel:
    """Train on the base model's own styles, with the U-Nets' loss.

    encode: images (N, 3, 64, 64) in -1..1 -> scaled latents. behind: updates that the network
    already has of those in the recipe; it goes on with the batches after them.
    """
    table, tokenizer = recipe()["controlnet"], build_tokenizer()
    whole = LoopSettings.from_table(table["loop"])
    settings = replace(whole, steps=whole.steps - behind)
    torch.manual_seed(settings.seed)
    net = net.to(device)
    styles = style_indices(recipe()["models"][0])
    batches = Prefetcher(batch_maker(sprites, styles, settings.batch, settings.seed), device)
    alpha_bar = DDPMScheduler(**recipe()["scheduler"]).alphas_cumprod
    weights = noise_weights(alpha_bar, recipe()["unet"])

    def loss(update: int) -> dict[str, Tensor]:
        k = update + behind
        g = torch.Generator().manual_seed(settings.seed * 1_000_003 + k)
        batch = batches(k)
        texts = sample_captions(batch.scenes, batch.styles, g)
        empty = (torch.rand(len(texts), generator=g) < table["empty_captions"]).tolist()
        texts = ["" if e else text for text, e in zip(texts, empty, strict=True)]
        condition = edges(((batch.images + 1) * 127.5).round().to(torch.uint8)).to(device)
        x_0 = encode(batch.images.to(device))
        eps = torch.randn(x_0.shape, generator=g).to(device)
        t = spread_timesteps(len(texts), len(alpha_bar), g)
        a = alpha_bar[t][:, None, None, None].to(device)
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        out = net(x_t, t.to(device), tokenize(tokenizer, texts).to(device), condition)
        per_image = (out - eps).square().flatten(1).mean(1)
        return {"loss": (weights[t].to(device) * per_image).mean(), "mse": per_image.mean()}

    net.load_state_dict(fit(net, loss, settings, folder))
    return net.control
