"""One update of a training and one sampled batch, at whatever size a pipeline has.

The same functions run at Stable Diffusion's size on a GPU and on the tiny pipeline on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_sd
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from sunbench import registry
from sunbench.methods.common.training import TrainingJob
from sunbench.methods.lcm.settings import LcmLoraTraining
from sunbench.methods.lcm.train import lcm_lora_stage
from sunbench.methods.sun.settings import SunTraining
from sunbench.methods.sun.train import train_adapter
from sunbench.models import LoadedModel, ModelCard
from sunbench.sampling import ImageId, SampleSettings, decode_latents, latent_shape, make_batch
from sunbench.training import LoopSettings
from sunbench.training.data import Listed
from sunbench.training.encode import encode_texts

METHODS = ("lcm-lora", "sun")
GUIDANCE = 5.0
COLORS = ((200, 20, 20), (20, 20, 200))


def with_words(pipeline: Any, folder: Path) -> StableDiffusionPipeline:
    """A pipeline without a tokenizer, with one of letters and a text encoder for its words."""
    words = tiny_sd.tokenizer(folder)
    config = CLIPTextConfig(**{**pipeline.text_encoder.config.to_dict(), "vocab_size": len(words)})
    old = pipeline.text_encoder
    encoder = CLIPTextModel(config).to(old.device, old.dtype).eval().requires_grad_(False)
    whole = {**pipeline.components, "tokenizer": words, "text_encoder": encoder}
    return StableDiffusionPipeline(**whole, requires_safety_checker=False)


def _row(i: int) -> tuple[Image.Image, str]:
    return Image.new("RGB", (64, 64), COLORS[i]), f"a b {i}"


def updated(method: str, pipeline: Any, out: Path, dtype: str) -> Path:
    """The weights of a method after one update with a batch of two; dtype: of autocast."""
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    card = ModelCard("sized", "folder", "random", resolution=side, guidance_scale=GUIDANCE)
    loaded = LoadedModel(pipeline, card, {"unet": "0" * 64}, "own")
    images = Listed("colors", len(COLORS), side, _row)
    loop = LoopSettings(steps=1, batch=2, learning_rate=1e-3, warmup=0, decay=0.0, dtype=dtype)
    if method == "sun":
        return train_adapter(loaded, images, SunTraining(sheet=0, substeps=2, loop=loop), out)
    settings = LcmLoraTraining(sheet=0, guidance_scale=GUIDANCE, loop=loop)
    return lcm_lora_stage(TrainingJob(method, loaded, images, settings, out)).run()


def sampled(method: str, pipeline: Any, weights: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and images of two prompts at two steps."""
    texts = encode_texts(pipeline, ["a b", "b a"]).cpu()
    images = [ImageId(f"p{i}", 0) for i in range(2)]
    batch = make_batch(images, texts, torch.zeros_like(texts), latent_shape(pipeline))
    loaded = registry.method(method, weights={method: str(weights)})
    settings = SampleSettings(2, GUIDANCE)
    assert (reason := loaded.skip(pipeline, settings)) is None, reason
    try:
        latents = loaded.prepare(pipeline, settings).sample(batch)
    finally:
        loaded.release(pipeline)
    return latents, decode_latents(pipeline, latents)


def check_update_and_samples(method: str, pipeline: Any, out: Path, dtype: str) -> None:
    """An update changes the weights, its losses are finite, and they make images."""
    weights = updated(method, pipeline, out, dtype)
    losses = [float(x) for x in (out / "loss.csv").read_text().splitlines()[-1].split(",")]
    tensors = load_file(weights)
    changed = "lora_up" if method == "lcm-lora" else "beta"  # zero at the start of a training
    assert all(torch.isfinite(x).all() for x in [torch.tensor(losses), *tensors.values()])
    assert all(bool(x.any()) for name, x in tensors.items() if changed in name)
    latents, images = sampled(method, pipeline, weights)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    assert images.shape == (2, 3, side, side)
    assert bool(torch.isfinite(latents).all())
    assert not torch.equal(images[0], images[1])
