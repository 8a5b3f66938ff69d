"""A ControlNet on edges for the zoo, trained on the base and used with every fine-tune.

Zhang et al. 2023, arXiv 2302.05543: a copy of the U-Net's encoder half that reads a picture of
edges and adds to the frozen U-Net's skips through convolutions that start at zero. There half of
the captions are empty, so that it learns to rely on the edges (sec. 3.3). Here a whole caption says
all of a picture, and an empty one leaves its colours open, which edges do not tell: most captions
name the thing and the ground's colour alone, and leave size, place, pattern and style to the edges.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from sunbench.sampling.edges import edges
from sunbench.training import LoopSettings, fit
from sunbench.zoo.data import Scene, Sprites, recipe
from sunbench.zoo.text import build_tokenizer, captions_of
from sunbench.zoo.train import encode_pool, tokenize
from sunbench.zoo.world.controlnet import new_controlnet
from sunbench.zoo.world.unet import noise_weights, spread_timesteps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frozen:
    """What a ControlNet is trained beside: the base's U-Net, text encoder and noise schedule."""

    unet: Any
    encoder: Any
    alpha_bar: Tensor

    def predict(self, net: Any, x_t: Tensor, t: Tensor, ids: Tensor, control: Tensor) -> Tensor:
        """Predicted noise (N, C, h, w) with a ControlNet's say; control: (N, 3, H, W) edges."""
        with torch.no_grad():
            context = self.encoder(ids).last_hidden_state
        down, mid = net(x_t, t, context, controlnet_cond=control, return_dict=False)
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
    vae: AutoencoderTiny,
    unet: UNet2DConditionModel,
    encoder: CLIPTextModel,
    folder: Path,
    device: str = "cpu",
) -> Any:
    """Train on the base model's own styles, with the U-Nets' loss."""
    table = recipe()["controlnet"]
    settings = LoopSettings.from_table(table["loop"])
    torch.manual_seed(settings.seed)
    net = new_controlnet(unet, table["embedding"]).to(device)
    for part in (unet, encoder):
        part.to(device).eval().requires_grad_(False)
    alpha_bar = DDPMScheduler(**recipe()["scheduler"]).alphas_cumprod
    frozen = Frozen(unet, encoder, alpha_bar)
    loss = _loss(frozen, net, sprites, vae, settings, device)
    net.load_state_dict(fit(net, loss, settings, folder))
    return net


def _base_styles() -> list[int]:
    names = [s["name"] for s in recipe()["styles"]]
    return [names.index(s) for s in recipe()["models"][0]["styles"]]


def brief(scene: Scene) -> str:
    """The caption that leaves size, place, pattern and style open."""
    return replace(scene, size=Scene.MEDIUM, ground=0, place=0).caption


def captions(index: Tensor, style: Tensor, generator: torch.Generator) -> list[str]:
    """Captions of scenes (N, 5): empty, brief or whole, by the recipe's shares."""
    table = recipe()["controlnet"]
    whole = captions_of(index, style, generator, recipe()["unet"]["named_styles"])
    chance = torch.rand(len(index), generator=generator).tolist()
    empty, short = table["empty_captions"], table["brief_captions"]
    texts = []
    for row, words, c in zip(index.tolist(), whole, chance, strict=True):
        texts.append("" if c < empty else brief(Scene(*row)) if c < empty + short else words)
    return texts


def _loss(
    frozen: Frozen,
    net: Any,
    sprites: Sprites,
    vae: AutoencoderTiny,
    settings: LoopSettings,
    device: str,
) -> Any:
    """Batch number -> losses; a caption and a style say all of a picture, so edges are drawn."""
    table, tokenizer, seed = recipe()["controlnet"], build_tokenizer(), settings.seed
    styles, size = _base_styles(), table["pool"]
    latents, index, style = encode_pool(vae, sprites, styles, size, seed + 29, device)
    alpha_bar = frozen.alpha_bar
    weights = noise_weights(alpha_bar, recipe()["unet"])

    def loss(k: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(seed * 1_000_003 + k)
        n = torch.randint(len(latents), (settings.batch,), generator=g)
        words = captions(index[n], style[n], g)
        pictures = sprites.compose_indices(index[n], style[n])
        control = edges((pictures * 255).round().to(torch.uint8)).to(device)
        x0 = latents[n].float()
        eps = torch.randn(x0.shape, generator=g)
        t = spread_timesteps(len(n), len(alpha_bar), g)
        a = alpha_bar[t][:, None, None, None]
        x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(device)
        ids = tokenize(tokenizer, words).to(device)
        out = frozen.predict(net, x_t, t.to(device), ids, control)
        per_image = (out - eps.to(device)).square().flatten(1).mean(1)
        return {"loss": (weights[t].to(device) * per_image).mean(), "mse": per_image.mean()}

    return loss
