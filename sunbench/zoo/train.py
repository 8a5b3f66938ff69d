"""Training of the zoo's parts, each a function of the recipe; resumable, on CPU or GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torchvision.utils import save_image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from sunbench.training import LoopSettings, fit
from sunbench.zoo.data import Scene, Sprites, batches, recipe, scenes
from sunbench.zoo.text import build_tokenizer, captions_of
from sunbench.zoo.world.unet import Conditioned, noise_weights, spread_timesteps

log = logging.getLogger(__name__)


def _feed(
    sprites: Sprites, styles: list[int], settings: LoopSettings
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Batch k of training pictures in -1..1, scene indices and styles."""

    def batch(k: int) -> tuple[Tensor, Tensor, Tensor]:
        stream = batches(sprites, styles, scenes()[0], settings.batch, settings.seed, k)
        pictures, index, style = next(stream)
        return pictures * 2 - 1, index, style

    return batch


def held_out(
    sprites: Sprites, styles: list[int], n: int, seed: int = 0
) -> tuple[Tensor, list[Scene], Tensor]:
    """n held-out pictures in -1..1, their scenes and styles."""
    g = torch.Generator().manual_seed(seed)
    pool = scenes()[1]
    picked = [pool[i] for i in torch.randperm(len(pool), generator=g)[:n].tolist()]
    style = torch.tensor(styles)[torch.randint(len(styles), (n,), generator=g)]
    return sprites.compose(picked, style) * 2 - 1, picked, style


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pictures in -1..1 of the peak signal-to-noise ratio, dB."""
    mse = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return -10 * mse.log10().mean()


def train_vae(sprites: Sprites, folder: Path, device: str = "cpu") -> AutoencoderTiny:
    """The autoencoder: 64x64x3 <-> 8x8x4. Latent noise in training makes the decoder forgiving."""
    table = recipe()["vae"]
    torch.manual_seed(table["loop"].get("seed", 0))
    vae = AutoencoderTiny(**table["config"]).to(device, memory_format=torch.channels_last)
    settings = LoopSettings.from_table(table["loop"])
    feed = _feed(sprites, list(range(len(recipe()["styles"]))), settings)

    def loss(k: int) -> dict[str, Tensor]:
        x, _, _ = feed(k)
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        z = vae.encode(x).latents
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(k)).to(device)
        y = vae.decode(z + table["latent_noise"] * noise).sample.float()
        d = (y - x) / 2
        mse, l1, size = d.square().mean(), d.abs().mean(), z.float().square().mean()
        return {
            "loss": table["mse"] * mse + l1 + table["latent_weight"] * size,
            "mse": mse,
            "l1": l1,
            "size": size,
        }

    x, _, _ = held_out(sprites, list(range(len(recipe()["styles"]))), 384)

    @torch.no_grad()
    def sheet(step: int, ema: dict[str, Tensor]) -> None:
        probe = AutoencoderTiny(**table["config"])
        probe.load_state_dict(ema)
        y = torch.cat([probe.decode(probe.encode(b).latents).sample for b in x.split(64)])
        log.info("vae step %d: held-out PSNR %.2f dB", step, _psnr(y, x))
        rows = torch.stack([x[:32], y[:32]], 1).flatten(0, 1).clamp(-1, 1)
        save_image(rows / 2 + 0.5, folder / "sheet.png", nrow=16)

    ema = fit(vae, loss, settings, folder, on_checkpoint=sheet)
    vae.load_state_dict(ema)
    with torch.no_grad():
        z = vae.to(memory_format=torch.contiguous_format).encode(x.to(device)).latents
    vae.register_to_config(scaling_factor=float(1 / z.std()), shift_factor=float(0))
    return vae


# ------------------------------------------------------------------------------ CLIP


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, padded and truncated to the window: (N, 24)."""
    n = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", max_length=n, truncation=True, return_tensors="pt")
    return ids.input_ids


def _clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    table = recipe()["clip"]
    text = CLIPTextConfig(
        **{
            **table["text"],
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    vision = CLIPVisionConfig(**table["vision"])
    return CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=table["text"]["projection_dim"],
        )
    )


def train_clip(sprites: Sprites, folder: Path, role: str, device: str = "cpu") -> CLIPModel:
    """A small CLIP on all styles: symmetric contrastive loss (Radford et al. 2021, Fig. 3).

    role: ``encoder`` or ``scorer``, whose settings differ in the recipe.
    """
    settings = LoopSettings.from_table(recipe()["clip"]["loop"] | recipe()["clip"][role])
    seed = settings.seed
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    clip = _clip(tokenizer).to(device)
    styles = list(range(len(recipe()["styles"])))
    feed = _feed(sprites, styles, settings)

    def loss(k: int) -> dict[str, Tensor]:
        x, index, style = feed(k)
        g = torch.Generator().manual_seed(seed * 7919 + k)
        ids = tokenize(tokenizer, captions_of(index, style, g, 0.5)).to(device)
        out = clip(input_ids=ids, pixel_values=x.to(device))
        logits = out.logits_per_text.float().clamp(-100, 100)
        target = torch.arange(len(ids), device=device)
        value = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": value, "top1": (logits.argmax(1) == target).float().mean()}

    x, picked, _ = held_out(sprites, styles, 512)
    ids = tokenize(tokenizer, [s.caption for s in picked])

    @torch.no_grad()
    def probe(step: int, ema: dict[str, Tensor]) -> None:
        model = _clip(tokenizer).eval()
        model.load_state_dict(ema)
        hits = []
        for i in range(0, 512, 256):
            logits = model(input_ids=ids[i : i + 256], pixel_values=x[i : i + 256]).logits_per_text
            hits.append((logits.argmax(1) == torch.arange(256)).float().mean())
        log.info("%s step %d: held-out top-1 of 256 %.3f", role, step, sum(hits) / 2)

    clip.load_state_dict(fit(clip, loss, settings, folder, on_checkpoint=probe))
    return clip


# ------------------------------------------------------------------------------ U-Net


@torch.no_grad()
def encode_pool(
    vae: AutoencoderTiny, sprites: Sprites, styles: list[int], size: int, seed: int, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled latents (N, 4, 8, 8) float16 of training pictures, their scenes and styles."""
    vae = vae.to(device, memory_format=torch.channels_last)
    stream = batches(sprites, styles, scenes()[0], 256, seed, 0)
    latents, index, style = [], [], []
    for _ in range(-(-size // 256)):
        x, i, s = next(stream)
        x = (x * 2 - 1).to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            z = vae.encode(x).latents
        latents.append((z.float() * vae.config.scaling_factor).half().cpu().contiguous())
        index.append(i)
        style.append(s)
    return torch.cat(latents), torch.cat(index), torch.cat(style)


def train_unet(
    sprites: Sprites,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    folder: Path,
    model: dict[str, Any],
    start: UNet2DConditionModel | None = None,
    device: str = "cpu",
) -> Conditioned:
    """Epsilon-prediction under ``noise_weights``.

    The base model (no ``start``) trains its text encoder too, as latent diffusion did before
    Stable Diffusion (Rombach et al. 2022, sec. 4.3.1); fine-tunes leave it as it is.
    """
    table = recipe()["unet"]
    override = {k: model[k] for k in ("steps", "learning_rate") if k in model}
    settings = LoopSettings.from_table(table["loop"] | override)
    torch.manual_seed(settings.seed)
    unet = UNet2DConditionModel(**table["config"])
    if start is not None:
        unet.load_state_dict(start.state_dict())
    text_encoder.requires_grad_(start is None)
    net = Conditioned(unet, text_encoder.eval()).to(device)
    names = [s["name"] for s in recipe()["styles"]]
    styles = [names.index(s) for s in model["styles"]]
    size = model.get("pool", table["pool"])
    latents, index, style = encode_pool(vae, sprites, styles, size, settings.seed + 17, device)
    tokenizer = build_tokenizer()
    alpha_bar = DDPMScheduler(**recipe()["scheduler"]).alphas_cumprod
    weights = noise_weights(alpha_bar, table)

    def loss(k: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(settings.seed * 1_000_003 + k)
        n = torch.randint(len(latents), (settings.batch,), generator=g)
        words = captions_of(index[n], style[n], g, table["named_styles"])
        empty = torch.rand(len(n), generator=g) < table["empty_captions"]
        words = ["" if e else w for w, e in zip(words, empty.tolist(), strict=True)]
        x0 = latents[n].float()
        eps = torch.randn(x0.shape, generator=g)
        t = spread_timesteps(len(n), len(alpha_bar), g)
        a = alpha_bar[t][:, None, None, None]
        x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).to(device)
        out = net(x_t, t.to(device), tokenize(tokenizer, words).to(device))
        per_image = (out - eps.to(device)).square().flatten(1).mean(1)
        return {"loss": (weights[t].to(device) * per_image).mean(), "mse": per_image.mean()}

    net.load_state_dict(fit(net, loss, settings, folder))
    return net
