"""The zoo made again from the art packages: stages in order, each resumable."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel

from sunbench.errors import unknown
from sunbench.zoo import CONTROLNET, control
from sunbench.zoo.data import Sprites, recipe
from sunbench.zoo.text import build_tokenizer
from sunbench.zoo.train import train_clip, train_unet, train_vae

log = logging.getLogger(__name__)


def stages() -> list[str]:
    """Names of the stages, in order."""
    models = [m["name"] for m in recipe()["models"]]
    return ["sprites", "vae", "encoder", "scorer", *models, CONTROLNET, "ship"]


def build(folder: Path, chosen: tuple[str, ...] = (), device: str = "cpu") -> None:
    """Run the stages (all by default) in ``folder``; finished ones are not run again.

    The last stage, ``ship``, writes ``folder/weights`` in float16, as the package holds them.
    """
    for stage in chosen:
        if stage not in stages():
            raise unknown("stage", stage, stages())
    for stage in chosen or stages():
        log.info("stage %s", stage)
        _run(stage, folder, device)


def _run(stage: str, folder: Path, device: str) -> None:
    sprites = Sprites.build(folder / "packages", folder / "sprites.safetensors")
    if stage == "sprites":
        return
    if stage == "ship":
        ship(folder, folder / "weights")
        return
    done = folder / stage / "model"
    if done.exists():
        return
    makers = {"vae": _vae, "encoder": _clip, "scorer": _clip, CONTROLNET: _control}
    maker: Any = makers.get(stage, _unet)
    part = done.with_name("model.part")
    maker(stage, sprites, folder, device, part)
    part.rename(done)


def _vae(stage: str, sprites: Sprites, folder: Path, device: str, out: Path) -> None:
    train_vae(sprites, folder / stage, device).save_pretrained(out)


def _clip(stage: str, sprites: Sprites, folder: Path, device: str, out: Path) -> None:
    train_clip(sprites, folder / stage, stage, device).save_pretrained(out)


def text_encoder(folder: Path) -> CLIPTextModel:
    """The text tower of a trained CLIP, as diffusers wants it."""
    clip = CLIPModel.from_pretrained(folder)
    encoder = CLIPTextModel(clip.config.text_config)
    own = encoder.state_dict()
    tower = clip.text_model.state_dict()
    encoder.load_state_dict({k: tower[k.removeprefix("text_model.")] for k in own})
    return encoder.eval()


def _unet(stage: str, sprites: Sprites, folder: Path, device: str, out: Path) -> None:
    """Train one model; the base's text encoder, which all models share, is kept beside it."""
    model = next(m for m in recipe()["models"] if m["name"] == stage)
    vae = AutoencoderTiny.from_pretrained(folder / "vae" / "model")
    if "base" in model:
        base = folder / model["base"] / "model"
        start = UNet2DConditionModel.from_pretrained(base)
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    else:
        start, encoder = None, text_encoder(folder / "encoder" / "model")
    net = train_unet(sprites, vae, encoder, folder / stage, model, start, device)
    net.unet.save_pretrained(out)
    if start is None:
        net.encoder.save_pretrained(out / "text_encoder")


def _control(stage: str, sprites: Sprites, folder: Path, device: str, out: Path) -> None:
    """Train the ControlNet beside the finished base model."""
    base = folder / recipe()["models"][0]["name"] / "model"
    vae = AutoencoderTiny.from_pretrained(folder / "vae" / "model")
    unet = UNet2DConditionModel.from_pretrained(base)
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    net = control.train_controlnet(sprites, vae, unet, encoder, folder / stage, device)
    net.save_pretrained(out)


# ------------------------------------------------------------------------------ shipping


def _half(folder: Path) -> None:
    """Weights of a saved part in float16; integer tensors stay."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        save_file({k: v.contiguous() for k, v in half.items()}, file, {"format": "pt"})


def ship(folder: Path, target: Path) -> None:
    """The package's weights from a build: parts shared by all models once, then each U-Net."""
    tokenizer = build_tokenizer()
    vae = AutoencoderTiny.from_pretrained(folder / "vae" / "model")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(folder / "emoji" / "model" / "text_encoder"),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(folder / "emoji" / "model"),
        scheduler=DDIMScheduler(**recipe()["scheduler"], set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(target)
    (target / "unet").rename(target / "unet-emoji")
    for model in recipe()["models"][1:]:
        part = folder / model["name"] / "model"
        UNet2DConditionModel.from_pretrained(part).save_pretrained(target / f"unet-{model['name']}")
    scorer = CLIPModel.from_pretrained(folder / "scorer" / "model")
    scorer.save_pretrained(target / "scorer")
    tokenizer.save_pretrained(target / "scorer")
    if (edges := folder / CONTROLNET / "model").is_dir():
        ControlNetModel.from_pretrained(edges).save_pretrained(target / CONTROLNET)
    for part in target.iterdir():
        if part.is_dir():
            _half(part)
    _forget(target)


#: Where a configuration was loaded from, and what AutoencoderTiny writes but warns of when read.
NOT_KEPT = ("_name_or_path", "block_out_channels")


def _forget(target: Path) -> None:
    """Drop from the configurations what is nobody's business or not an argument of its class."""
    for file in target.rglob("*.json"):
        table = json.loads(file.read_text("utf-8"))
        tiny = isinstance(table, dict) and table.get("_class_name") == "AutoencoderTiny"
        dropped = [k for k in (NOT_KEPT if tiny else NOT_KEPT[:1]) if k in table]
        if dropped:
            kept = {k: v for k, v in table.items() if k not in dropped}
            file.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
