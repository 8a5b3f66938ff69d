"""The zoo built from the art packages: stages in order, each resumable.

A stage is a folder; its trained network stands in ``model`` when it is whole. A folder that an
older recipe began is refused: each holds the hash of the settings that shape it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel

from sunbench.errors import UserError, unknown
from sunbench.store.files import JsonObject
from sunbench.zoo import CONTROLNET
from sunbench.zoo.world import sprites as art
from sunbench.zoo.world.autoencoder import train_autoencoder, train_decoder
from sunbench.zoo.world.captions import held_out_prompts, recipe, style_indices
from sunbench.zoo.world.checks import gradient_magnitudes
from sunbench.zoo.world.clip import train_clip
from sunbench.zoo.world.controlnet import Controlled, new_controlnet, train_controlnet
from sunbench.zoo.world.images import Sprites
from sunbench.zoo.world.reader import train_reader
from sunbench.zoo.world.real import Quantized, RealFeatures, real_images
from sunbench.zoo.world.ship import ship
from sunbench.zoo.world.unet import LatentPool, train_unet, unet_settings

log = logging.getLogger(__name__)

RECIPE_HASH = "recipe.json"
#: In a stage's folder that a build begins with: how far its training has come.
UPDATES = "updates.json"
#: Settings that may change while a stage goes on, as in ``training.loop``.
FLEXIBLE = ("steps", "decay", "checkpoint_every", "log_every")


def stages() -> list[str]:
    """Names of the stages, in order."""
    models = [m["name"] for m in recipe()["models"]]
    return [
        "sprites",
        "vae",
        "encoder",
        "scorer",
        "reader",
        *models,
        "decoder",
        CONTROLNET,
        "real",
        "ship",
    ]


def build(
    folder: Path, chosen: tuple[str, ...] = (), device: str = "cpu", begin: Path | None = None
) -> None:
    """Run the stages (all by default) in ``folder``; finished ones are not run again.

    The last stage, ``ship``, writes ``folder/weights`` in float16, as the package holds them.
    begin: a folder of stages to take as they are; one with a file ``updates.json`` is not finished,
    its training goes on from its weights with a new optimizer state.
    """
    for stage in chosen:
        if stage not in stages():
            raise unknown("stage", stage, stages())
    for stage in chosen or stages():
        log.info("stage %s", stage)
        Builder(folder, device, begin).run(stage)


@dataclass(frozen=True)
class Builder:
    """Trains stages in a folder on a device."""

    folder: Path
    device: str = "cpu"
    begin: Path | None = None

    @property
    def sprites(self) -> Sprites:
        """The art, drawn first if it is not there yet."""
        file = self.folder / "sprites.safetensors"
        if not file.exists():
            art.render(self.folder / "packages", file)
        return Sprites.load(file)

    def run(self, stage: str) -> None:
        """Run one stage unless it is whole; a stage that another recipe began is refused."""
        if stage == "sprites":
            _ = self.sprites
            return
        if stage == "ship":
            ship(self.finished, self.folder / "weights")
            return
        place = self.folder / stage
        if (place / "model").exists() or self._shipped(stage) is not None:
            return
        _claim(place, _settings(stage))
        part = place / "model.part"
        self._trainer(stage)(place, part)
        part.rename(place / "model")

    def finished(self, stage: str) -> Path:
        """The trained network of a stage; UserError when it is not whole."""
        model = self.folder / stage / "model"
        if not model.is_dir() and (shipped := self._shipped(stage)) is not None:
            return shipped
        if not model.is_dir():
            raise UserError(
                f"stage {stage} is not finished in {self.folder}, expected {model}; "
                f"`sunbench zoo build --stages {stage}` trains it"
            )
        return model

    def _shipped(self, stage: str) -> Path | None:
        """The finished network that the build begins with, if any."""
        if self.begin is None or (self.begin / stage / UPDATES).exists():
            return None
        model = self.begin / stage / "model"
        return model if model.is_dir() else None

    def _trainer(self, stage: str) -> Callable[[Path, Path], None]:
        special: dict[str, Callable[[Path, Path], None]] = {
            "vae": self._vae,
            "decoder": self._decoder,
            "encoder": self._clip,
            "scorer": self._clip,
            "reader": self._reader,
            CONTROLNET: self._controlnet,
            "real": self._real,
        }
        return special.get(stage, self._unet)

    # --------------------------------------------------------------------------- stages

    def _vae(self, place: Path, out: Path) -> None:
        train_autoencoder(self.sprites, place, self.device).save_pretrained(out)

    def _decoder(self, place: Path, out: Path) -> None:
        vae = AutoencoderTiny.from_pretrained(self.finished("vae"))
        train_decoder(vae, self.sprites, place, self.device).save_pretrained(out)

    def _clip(self, place: Path, out: Path) -> None:
        train_clip(self.sprites, place, place.name, self.device).save_pretrained(out)

    def _reader(self, place: Path, out: Path) -> None:
        reader = train_reader(self.sprites, place, self.device)
        out.mkdir(exist_ok=True)
        save_file(reader.state_dict(), out / "model.safetensors")

    def _unet(self, place: Path, out: Path) -> None:
        """One model; the base's text encoder, which all models share, is kept beside it."""
        model = next(m for m in recipe()["models"] if m["name"] == place.name)
        start, encoder = self._start(model)
        pool = self._pool(place, model)
        net = train_unet(pool, encoder, place, self._rest(model), start=start, device=self.device)
        net.unet.save_pretrained(out)
        if "base" not in model:
            net.encoder.save_pretrained(out / "text_encoder")

    def _start(self, model: JsonObject) -> tuple[UNet2DConditionModel | None, CLIPTextModel]:
        """What a model's training goes on from; a fine-tune's text encoder is its base's."""
        unfinished = self._unfinished(model["name"])
        base = self.finished(model["base"]) if "base" in model else unfinished
        if base is None:
            return None, text_tower(self.finished("encoder"))
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
        return UNet2DConditionModel.from_pretrained(unfinished or base), encoder

    def _unfinished(self, stage: str) -> Path | None:
        """The unfinished network that the stage's training goes on from, if any."""
        if self.begin is None or self._updates(stage) == 0:
            return None
        return self.begin / stage / "model"

    def _updates(self, stage: str) -> int:
        """Updates that a stage of ``begin`` has behind it."""
        file = self.begin / stage / UPDATES if self.begin is not None else None
        if file is None or not file.exists():
            return 0
        return int(json.loads(file.read_text("utf-8"))["updates"])

    def _rest(self, model: JsonObject) -> JsonObject:
        """The model's table with the updates that are left."""
        return {**model, "steps": unet_settings(model).steps - self._updates(model["name"])}

    def _pool(self, place: Path, model: JsonObject) -> LatentPool:
        """Encoded once and kept: a resumed training begins at once."""
        file = place / "pool.safetensors"
        if not file.exists():
            vae = AutoencoderTiny.from_pretrained(self.finished("vae"))
            pool = LatentPool.encode(
                vae,
                self.sprites,
                style_indices(model),
                model.get("pool", recipe()["unet"]["pool"]),
                seed=unet_settings(model).seed + 17,
                device=self.device,
            )
            part = file.with_suffix(".part")
            save_file(vars(pool), part)
            part.replace(file)
        return LatentPool(**load_file(file))

    def _controlnet(self, place: Path, out: Path) -> None:
        base = self.finished(recipe()["models"][0]["name"])
        unet = UNet2DConditionModel.from_pretrained(base)
        encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
        vae: Any = AutoencoderTiny.from_pretrained(self.finished("vae")).to(self.device)

        @torch.no_grad()
        def encode(images: Tensor) -> Tensor:
            return vae.encode(images).latents.float() * vae.config.scaling_factor

        if (unfinished := self._unfinished(CONTROLNET)) is not None:
            control = ControlNetModel.from_pretrained(unfinished)
        else:
            control = new_controlnet(unet, recipe()["controlnet"]["embedding"])
        behind = self._updates(CONTROLNET)
        net = Controlled(control, unet, encoder)
        trained = train_controlnet(self.sprites, encode, net, place, self.device, behind)
        trained.save_pretrained(out)

    def _real(self, place: Path, out: Path) -> None:
        """Features of the held-out prompts' real images in each model's styles."""
        scorer: Any = (
            CLIPModel.from_pretrained(self.finished("scorer"), dtype=torch.float32)
            .eval()
            .to(self.device)
        )
        out.mkdir(exist_ok=True)
        for model in recipe()["models"]:
            images = real_images(self.sprites, style_indices(model), held_out_prompts())
            features = [_embedded(scorer, b.to(self.device)) for b in images.split(256)]
            real = RealFeatures(
                Quantized.of(torch.cat(features).cpu()), gradient_magnitudes(images)
            )
            real.save(out / f"{model['name']}.safetensors")


@torch.no_grad()
def _embedded(scorer: Any, images: Tensor) -> Tensor:
    """Projected image embeddings (N, D), as the feature network zoo-clip has them."""
    pixels = (images.float() / 255 - 0.5) / 0.5
    embedding: Tensor = scorer.visual_projection(scorer.vision_model(pixels).pooler_output)
    return embedding


def text_tower(folder: Path) -> CLIPTextModel:
    """The text tower of a trained CLIP, as diffusers wants it."""
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    encoder = CLIPTextModel(clip.config.text_config)
    weights = clip.text_model.state_dict()
    encoder.load_state_dict(
        {k: weights[k.removeprefix("text_model.")] for k in encoder.state_dict()}
    )
    return encoder.eval()


# ------------------------------------------------------------------------------ recipes


def _settings(stage: str) -> JsonObject:
    """What of the recipe shapes a stage, without what may change while it goes on."""
    table = recipe()
    shared = {k: table[k] for k in ("data", "mentions", "colors", "styles")}
    own = {
        "vae": {"vae": table["vae"]},
        "decoder": {"vae": table["vae"]},
        "encoder": {"clip": table["clip"]},
        "scorer": {"clip": table["clip"]},
        "reader": {"reader": table["reader"]},
        "real": {"clip": table["clip"], "models": table["models"]},
        CONTROLNET: {"controlnet": table["controlnet"], "scheduler": table["scheduler"]},
    }.get(stage) or {
        "unet": table["unet"],
        "scheduler": table["scheduler"],
        "model": next(m for m in table["models"] if m["name"] == stage),
    }
    return _without(FLEXIBLE, shared | own)


def _without(names: tuple[str, ...], value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(names, v) for k, v in value.items() if k not in names}
    return [_without(names, v) for v in value] if isinstance(value, list) else value


def _claim(place: Path, settings: Mapping[str, object]) -> None:
    """Note what shapes a stage; refuse a folder that other settings began."""
    place.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    file = place / RECIPE_HASH
    if not file.exists():
        file.write_text(json.dumps({"sha256": digest}) + "\n", "utf-8")
    elif json.loads(file.read_text("utf-8")).get("sha256") != digest:
        raise UserError(
            f"{place} was begun by another recipe, expected {digest[:12]}; delete it to start again"
        )
