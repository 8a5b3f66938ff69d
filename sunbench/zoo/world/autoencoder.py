"""Training of the autoencoder: 64x64x3 images <-> 16x16x4 latents."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torchvision.utils import save_image

from sunbench.training import LoopSettings, fit
from sunbench.training.prefetch import Prefetcher
from sunbench.zoo.world.captions import recipe, scenes
from sunbench.zoo.world.images import Batch, Sprites, batch_maker, sample_batch

log = logging.getLogger(__name__)


def every_style() -> list[int]:
    """Indices of all styles."""
    return list(range(len(recipe()["styles"])))


def held_out_batch(sprites: Sprites, styles: list[int], n: int, seed: int = 0) -> Batch:
    """n images of held-out scenes, by the seed alone."""
    return sample_batch(sprites, styles, scenes()[1], n, seed)


def reconstruction_psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image (N,), dB; images (N, 3, H, W) in -1..1."""
    mse = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return -10 * mse.log10()


def neighbor_differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighboring pixels, down and right."""
    return x.diff(dim=-2), x.diff(dim=-1)


def reconstruction_losses(y: Tensor, x: Tensor) -> dict[str, Tensor]:
    """mse, l1 and edges of reconstructions y of images x, both in -1..1."""
    d = (y - x) / 2
    by_axis = [
        (a - b).abs().mean()
        for a, b in zip(*map(neighbor_differences, (y / 2, x / 2)), strict=True)
    ]
    return {"mse": d.square().mean(), "l1": d.abs().mean(), "edges": sum(by_axis, d.new_zeros(()))}


@torch.no_grad()
def reconstruct(vae: Any, images: Tensor) -> Tensor:
    """What the autoencoder makes of images, in batches of 64."""
    return torch.cat([vae.decode(vae.encode(b).latents).sample for b in images.split(64)])


def _trained(
    vae: Any, sprites: Sprites, folder: Path, device: str, settings: LoopSettings
) -> AutoencoderTiny:
    """Train what of the autoencoder requires gradients, on all styles."""
    table = recipe()["vae"]
    styles = every_style()
    batches = Prefetcher(batch_maker(sprites, styles, settings.batch, settings.seed), device)

    def loss(k: int) -> dict[str, Tensor]:
        images = batches(k).images.to(device).contiguous(memory_format=torch.channels_last)
        z = vae.encode(images).latents
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(k)).to(device)
        parts = reconstruction_losses(
            vae.decode(z + table["latent_noise"] * noise).sample.float(), images
        )
        parts["size"] = z.float().square().mean()
        total = sum(table[name] * parts[name] for name in ("mse", "l1", "edges"))
        return {"loss": total + table["latent_weight"] * parts["size"], **parts}

    held_out = held_out_batch(sprites, styles, 192).images

    def probe(step: int, ema: dict[str, Tensor]) -> None:
        net = AutoencoderTiny(**table["config"])
        net.load_state_dict(ema)
        y = reconstruct(net, held_out)
        log.info("step %d: held-out PSNR %.2f dB", step, reconstruction_psnr(y, held_out).mean())
        rows = torch.stack([held_out[:32], y[:32]], 1).flatten(0, 1).clamp(-1, 1)
        save_image(rows / 2 + 0.5, folder / "sheet.png", nrow=16)

    vae.load_state_dict(fit(vae, loss, settings, folder, on_checkpoint=probe))
    return vae.to(memory_format=torch.contiguous_format)


def train_autoencoder(sprites: Sprites, folder: Path, device: str = "cpu") -> AutoencoderTiny:
    """Encoder and decoder; noise on the latents in training makes the decoder forgiving."""
    settings = LoopSettings.from_table(recipe()["vae"]["loop"])
    torch.manual_seed(settings.seed)
    vae = AutoencoderTiny(**recipe()["vae"]["config"])
    vae = _trained(
        vae.to(device, memory_format=torch.channels_last), sprites, folder, device, settings
    )
    images = held_out_batch(sprites, every_style(), 192).images
    with torch.no_grad():
        z = vae.encode(images.to(device)).latents
    vae.register_to_config(scaling_factor=float(1 / z.std()), shift_factor=0.0)
    return vae


def train_decoder(
    vae: AutoencoderTiny, sprites: Sprites, folder: Path, device: str = "cpu"
) -> AutoencoderTiny:
    """Train the decoder on while the encoder stays, as Stable Diffusion's later VAEs were.

    The latents stay what they are, so it can run beside or after the U-Nets' training.
    """
    settings = LoopSettings.from_table(recipe()["vae"]["loop"] | recipe()["vae"]["decoder_loop"])
    vae.encoder.requires_grad_(False)
    vae = vae.to(device, memory_format=torch.channels_last)
    return _trained(vae, sprites, folder, device, settings)
