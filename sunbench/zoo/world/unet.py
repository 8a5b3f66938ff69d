"""Training of the U-Nets: the base with its text encoder, then the fine-tunes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel

from sunbench.store.files import JsonObject
from sunbench.training import LoopSettings, fit
from sunbench.training.prefetch import Prefetcher
from sunbench.zoo.world.captions import recipe, sample_captions
from sunbench.zoo.world.clip import tokenize
from sunbench.zoo.world.images import Sprites, batch_maker
from sunbench.zoo.world.text import build_tokenizer


@dataclass(frozen=True)
class LatentPool:
    """Encoded training images: scaled latents (N, 4, 16, 16) float16, scenes, styles."""

    latents: Tensor
    scenes: Tensor
    styles: Tensor

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        vae: AutoencoderTiny,
        sprites: Sprites,
        styles: list[int],
        size: int,
        *,
        seed: int,
        device: str = "cpu",
    ) -> LatentPool:
        """About ``size`` images of training scenes."""
        vae = vae.to(device, memory_format=torch.channels_last)
        composed = Prefetcher(batch_maker(sprites, styles, 256, seed), device)
        latents, scenes, of_style = [], [], []
        for k in range(-(-size // 256)):
            batch = composed(k)
            x = batch.images.to(device).contiguous(memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                z = vae.encode(x).latents
            latents.append((z.float() * vae.config.scaling_factor).half().cpu().contiguous())
            scenes.append(batch.scenes)
            of_style.append(batch.styles)
        return cls(torch.cat(latents), torch.cat(scenes), torch.cat(of_style))


def spread_timesteps(n: int, steps: int, generator: torch.Generator) -> Tensor:
    """n timesteps (n,) below ``steps``, each uniform, together evenly spread over the range.

    One shared offset, as Kingma et al. 2021 (arXiv 2107.00630, app. I.1): less noisy gradients.
    """
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    u = (torch.arange(n, dtype=torch.float64) / n + offset) % 1
    return (u * steps).long()


def noise_weights(alpha_bar: Tensor, table: JsonObject) -> Tensor:
    """Weight of the squared error of the noise at each timestep (T,).

    In x_0, errors weigh the SNR clamped to the recipe's ``snr_floor`` and ``snr_gamma``: min-SNR
    above (Hang et al. 2023, arXiv 2303.09556, Eq. 6), truncated SNR below (Salimans and Ho 2022,
    arXiv 2202.00512, section 4), for at high noise only the text says what to draw.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(table["snr_floor"], table["snr_gamma"]) / snr


class CaptionedUNet(nn.Module):
    """A U-Net with its text encoder, so that both can learn together."""

    def __init__(self, unet: UNet2DConditionModel, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.encoder = unet, encoder
        n = encoder.config.max_position_embeddings
        self.register_buffer("causal", torch.ones(1, 1, n, n, dtype=torch.bool).tril(), False)

    def forward(self, x_t: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Predicted noise (N, C, h, w) of noisy latents at timesteps (N,), tokens (N, 24)."""
        # with a mask passed in, the encoder makes none on the host, which no graph can hold
        context = self.encoder(ids, attention_mask=self.causal).last_hidden_state
        return self.unet(x_t, t, context).sample.float()


def unet_settings(model: JsonObject) -> LoopSettings:
    """The recipe's loop with what the model overrides."""
    override = {k: model[k] for k in ("steps", "batch", "learning_rate") if k in model}
    return LoopSettings.from_table(recipe()["unet"]["loop"] | override)


class NoisyBatch(NamedTuple):
    """Noisy latents and their noise (N, C, h, w), timesteps and weights (N,), tokens (N, 24)."""

    x_t: Tensor
    eps: Tensor
    t: Tensor
    weights: Tensor
    ids: Tensor


def noisy_batches(pool: LatentPool, settings: LoopSettings) -> Callable[[int], NoisyBatch]:
    """Batch number -> what a U-Net is shown, on the CPU."""
    table, tokenizer = recipe()["unet"], build_tokenizer()
    alpha_bar = DDPMScheduler(**recipe()["scheduler"]).alphas_cumprod
    weights = noise_weights(alpha_bar, table)

    def batch(k: int) -> NoisyBatch:
        g = torch.Generator().manual_seed(settings.seed * 1_000_003 + k)
        n = torch.randint(len(pool.latents), (settings.batch,), generator=g)
        texts = sample_captions(pool.scenes[n], pool.styles[n], g)
        empty = (torch.rand(len(n), generator=g) < table["empty_captions"]).tolist()
        texts = ["" if e else text for text, e in zip(texts, empty, strict=True)]
        x_0 = pool.latents[n].float()
        eps = torch.randn(x_0.shape, generator=g)
        t = spread_timesteps(len(n), len(alpha_bar), g)
        a = alpha_bar[t][:, None, None, None]
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        return NoisyBatch(x_t, eps, t, weights[t], tokenize(tokenizer, texts))

    return batch


def denoising_loss(net: CaptionedUNet) -> Callable[..., dict[str, Tensor]]:
    """The parts of a ``NoisyBatch`` -> losses: epsilon-prediction, weighted."""

    def loss(*batch: Tensor) -> dict[str, Tensor]:
        b = NoisyBatch(*batch)
        per_image = (net(b.x_t, b.t, b.ids) - b.eps).square().flatten(1).mean(1)
        return {"loss": (b.weights * per_image).mean(), "mse": per_image.mean()}

    return loss


def train_unet(
    pool: LatentPool,
    text_encoder: CLIPTextModel,
    folder: Path,
    model: JsonObject,
    *,
    start: UNet2DConditionModel | None = None,
    device: str = "cpu",
) -> CaptionedUNet:
    """Train a model of the recipe.

    The base model trains its text encoder too, as latent diffusion did before Stable Diffusion
    (Rombach et al. 2022, sec. 4.3.1); fine-tunes leave it as it is. start: weights to begin with.
    """
    settings = unet_settings(model)
    torch.manual_seed(settings.seed)
    unet = UNet2DConditionModel(**recipe()["unet"]["config"])
    if start is not None:
        unet.load_state_dict(start.state_dict())
    if device == "cpu":  # attention as plain products: 63 images/s on one core, 52 fused
        unet.set_attn_processor(AttnProcessor())
    text_encoder.requires_grad_("base" not in model)
    net = CaptionedUNet(unet, text_encoder.eval()).to(device)
    batches = noisy_batches(pool, settings)
    net.load_state_dict(fit(net, denoising_loss(net), settings, folder, batches=batches))
    return net
