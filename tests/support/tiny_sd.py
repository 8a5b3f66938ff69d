"""A small Stable Diffusion world of real classes at random weights, with its scorer and prompts."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": WIDTH,
}
#: Stable Diffusion's layout: four stages of two layers, attention in three and in the mid block.
DEEP = {
    "block_out_channels": (8, 16, 16, 16),
    "norm_num_groups": 4,
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 2,
}
VAE = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
    "latent_channels": 4,
}
#: Stable Diffusion 1.5's own scheduler file.
SD15_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
PROMPTS = [f"a {c} {t}" for c in ("red", "teal") for t in ("apple", "boat", "cat", "drum", "egg")]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer of letters."""
    letters = [*string.ascii_lowercase, *string.digits]
    tokens = [*letters, *(f"{x}</w>" for x in letters), "ab", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    limits = {"model_max_length": 24, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(limits))
    return CLIPTokenizer.from_pretrained(str(folder))


def _text_settings(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
        "projection_dim": 16,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }


def pipeline(folder: Path, seed: int = 0, **unet: Any) -> StableDiffusionPipeline:
    """A random pipeline at 16x16 pixels whose images are neither black nor clipped."""
    words = tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderTiny(**VAE)
        last = vae.decoder.layers[-1]
        last.weight.data.mul_(4)
        last.bias.data.fill_(0.5)
        pipe = StableDiffusionPipeline(
            unet=UNet2DConditionModel(**{**UNET, **unet}),
            vae=vae,
            text_encoder=CLIPTextModel(CLIPTextConfig(**_text_settings(words))),
            tokenizer=words,
            scheduler=PNDMScheduler(**SD15_SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval().requires_grad_(False)
    return pipe


def write_scorer(folder: Path, seed: int = 9) -> None:
    """A random CLIP with its tokenizer."""
    words = tokenizer(folder / "words")
    vision = {
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 16,
    }
    config = CLIPConfig(text_config=_text_settings(words), vision_config=vision, projection_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)


@dataclass(frozen=True)
class World:
    """Files of a world: two model cards (one paints black), the prompts, the zoo's weights."""

    card: Path
    black: Path
    prompts: Path
    weights: Path

    @classmethod
    def at(cls, root: Path) -> World:
        """The world that ``write`` put under root."""
        return cls(root / "tiny.toml", root / "black.toml", root / "prompts.txt", root / "weights")

    @classmethod
    def write(cls, root: Path) -> World:
        """Build everything under root."""
        world = cls.at(root)
        world.prompts.write_text("\n".join(PROMPTS) + "\n")
        pipe = pipeline(root / "words")
        pipe.save_pretrained(root / "tiny")
        pipe.vae.decoder.layers[-1].weight.data.zero_()
        pipe.vae.decoder.layers[-1].bias.data.zero_()
        pipe.save_pretrained(root / "black")
        for card in (world.card, world.black):
            card.write_text(_card(card.stem, root, world.prompts))
        write_scorer(world.weights / "scorer")
        return world


def _card(name: str, root: Path, prompts: Path) -> str:
    values = {
        "name": name,
        "source": "folder",
        "id": str(root / name),
        "architecture": "zoo",
        "vae": "own",
        "guidance_scale": 3.0,
        "resolution": 16,
        "prompts": str(prompts),
        "extractor": "zoo-clip",
        "scorer": "zoo-clip",
    }
    return "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())


def settle(world: World, patch: Callable[[Any, str, Any], None]) -> None:
    """Make the library live in the world: its zoo, short references and timing, small shards."""
    import sunbench.bench.cells
    import sunbench.sampling.cell
    import sunbench.zoo
    from sunbench.reference_sets import Recipe

    timing = import_module("sunbench.timing.measure")

    patch(sunbench.zoo, "weights", lambda: world.weights)
    patch(sunbench.bench.cells, "recipe_for", lambda model: Recipe(model=model, steps=5))
    patch(sunbench.sampling.cell, "SHARD_SIZE", 4)
    patch(timing, "LEVELS", {**timing.LEVELS, "short": timing.PassLength(1, 1, True)})
