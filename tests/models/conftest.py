"""Tiny pipelines of real classes at random weights, and a hub on this machine."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SUNBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, with this process's huggingface_hub pointed at it and an empty cache."""
    with hub_server.in_place_of_the_hub(monkeypatch, tmp_path / "hub") as server:
        yield server


UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
}
VAE = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
    "sample_size": 16,
}


def write_tokenizer(folder: Path) -> Path:
    letters = [*string.ascii_lowercase, *string.digits]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "ab",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    limits = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(limits))
    return folder


def build_pipeline(
    folder: Path, *, width: int, seed: int, tiny_vae: bool = False, **unet: Any
) -> Path:
    """Save a random pipeline; `width` is the text encoder's, 768 for a model shaped like SD1."""
    import torch
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(write_tokenizer(folder / "made")))
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        projection_dim=width,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderTiny(**TINY_VAE) if tiny_vae else AutoencoderKL(**VAE)
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel(**{**UNET, "cross_attention_dim": width, **unet}),
            vae=vae,
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            scheduler=PNDMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                skip_prk_steps=True,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


TINY_VAE = {
    "encoder_block_out_channels": (16, 16),
    "decoder_block_out_channels": (16, 16),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
    "latent_channels": 4,
}


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    return build_pipeline


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SD1's cross-attention width, so that checks take it for SD1.x."""
    return build_pipeline(tmp_path_factory.mktemp("sd1"), width=768, seed=1)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture at other weights: a fine-tune."""
    return build_pipeline(tmp_path_factory.mktemp("other"), width=768, seed=2)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the zoo's, with AutoencoderTiny."""
    return build_pipeline(tmp_path_factory.mktemp("small"), width=32, seed=3, tiny_vae=True)
