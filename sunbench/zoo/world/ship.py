"""The package's weights from a finished build: shared parts once, then each U-Net, in float16."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel

from sunbench.zoo import CONTROLNET, READER, REAL
from sunbench.zoo.world.captions import recipe
from sunbench.zoo.world.text import build_tokenizer

#: Where a configuration was loaded from, and what AutoencoderTiny writes but warns of when read.
NOT_KEPT = ("_name_or_path", "block_out_channels")


def ship(finished: Callable[[str], Path], target: Path) -> None:
    """Write every part into ``target``; finished: the folder of a stage's trained network."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    _pipeline(finished).save_pretrained(part)
    (part / "unet").rename(part / f"unet-{recipe()['models'][0]['name']}")
    for model in recipe()["models"][1:]:
        unet = UNet2DConditionModel.from_pretrained(finished(model["name"]), dtype=torch.float32)
        unet.save_pretrained(part / f"unet-{model['name']}")
    scorer = CLIPModel.from_pretrained(finished("scorer"), dtype=torch.float32)
    scorer.save_pretrained(part / "scorer")
    build_tokenizer().save_pretrained(part / "scorer")
    ControlNetModel.from_pretrained(finished(CONTROLNET)).save_pretrained(part / CONTROLNET)
    shutil.copytree(finished("reader"), part / READER)
    for folder in part.iterdir():
        if folder.is_dir():
            _halve(folder)
    shutil.copytree(finished("real"), part / REAL)  # integers, and their scales in float32
    _forget(part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _pipeline(finished: Callable[[str], Path]) -> Any:
    """The base model as a diffusers pipeline."""
    base = finished(recipe()["models"][0]["name"])
    return StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(finished("decoder")),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32),
        tokenizer=build_tokenizer(),
        unet=UNet2DConditionModel.from_pretrained(base),
        scheduler=DDIMScheduler(**recipe()["scheduler"], set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _halve(folder: Path) -> None:
    """Weights of a saved part in float16; integer tensors stay."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        save_file({k: v.contiguous() for k, v in half.items()}, file, {"format": "pt"})


def _forget(target: Path) -> None:
    """Drop from the configurations what is nobody's business or not an argument of its class."""
    for file in target.rglob("*.json"):
        table = json.loads(file.read_text("utf-8"))
        tiny = isinstance(table, dict) and table.get("_class_name") == "AutoencoderTiny"
        dropped = [k for k in (NOT_KEPT if tiny else NOT_KEPT[:1]) if k in table]
        if dropped:
            kept = {k: v for k, v in table.items() if k not in dropped}
            file.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
