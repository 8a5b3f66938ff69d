"""SUN's Table 3 measured: its variants in a timing pass at batch 1, kept as one document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sunbench.errors import UserError
from sunbench.models import LoadedModel, ModelCard, channels_last, find_model, load
from sunbench.models.sources import CONFIGS
from sunbench.paper.variants import VARIANTS
from sunbench.store import write_atomic
from sunbench.store.decode import decode
from sunbench.store.files import JsonObject, make_folder, read_versioned, to_json
from sunbench.store.timings import TimingRow
from sunbench.timing import TimingSettings, measure_times

SCHEMA_VERSION = 2
#: Full shapes with random weights, for a GPU without any download.
SHAPES = {"sd1.5-shape": "sd1", "sd2.1-shape": "sd2"}


@dataclass(frozen=True)
class TimingRequest:
    """How a model is timed for the table."""

    model: str
    device: str
    dtype: str
    resolution: int
    rounds: int
    warm_up: int

    def __post_init__(self) -> None:
        if self.rounds < 3 or self.warm_up < 1:
            rounds = f"{self.rounds} rounds and {self.warm_up} warm-up"
            raise UserError(f"given {rounds}, expected 3 and 1 or more")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise UserError(f"given dtype {self.dtype!r}, expected float32, float16 or bfloat16")


@dataclass(frozen=True)
class ModelTimes:
    """A request with what was measured."""

    request: TimingRequest
    unet_parameters: int
    rows: tuple[TimingRow, ...]


def timing_request(spec: str, device: str, dtype: str, rounds: int, warm_up: int) -> TimingRequest:
    """The request for a model or a shape; nothing is loaded."""
    if spec in SHAPES:
        return TimingRequest(spec, device, dtype, 512, rounds, warm_up)
    card = find_model(spec)
    return TimingRequest(card.name, device, dtype, card.resolution, rounds, warm_up)


# ------------------------------------------------------------------------------ models


def _config(family: str, part: str) -> JsonObject:
    file = next((CONFIGS / family / part).glob("*.json"))
    config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return config


def random_pipeline(family: str, device: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    """A pipeline of Stable Diffusion's full shape with random weights and no tokenizer."""
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(_config(family, "unet"))
        vae = AutoencoderKL.from_config(_config(family, "vae"))
        text = CLIPTextModel(CLIPTextConfig(**_config(family, "text_encoder")))
    for part in (unet, vae, text):
        torch.nn.Module.to(part, dtype=dtype).eval().requires_grad_(False)
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        scheduler=PNDMScheduler.from_config(_config(family, "scheduler")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    channels_last(pipeline)
    return pipeline


def load_for_timing(spec: str, device: str, dtype: str) -> LoadedModel:
    """A card's model, or a shape with random weights."""
    kind = getattr(torch, dtype)
    if spec not in SHAPES:
        return load(find_model(spec), device=device, dtype=kind)
    card = ModelCard(spec, "folder", spec, resolution=512)
    return LoadedModel(random_pipeline(SHAPES[spec], device, kind), card, {}, "own")


# ------------------------------------------------------------------------------ measuring


def measure_model(spec: str, request: TimingRequest) -> ModelTimes:
    """Time every variant on one model, one image at a time."""
    loaded = load_for_timing(spec, request.device, request.dtype)
    methods = [variant.timed(loaded.pipeline) for variant in VARIANTS]
    settings = TimingSettings(request.resolution, rounds=request.rounds, warm_up=request.warm_up)
    rows = measure_times(loaded, methods, settings, "full")
    parameters = sum(p.numel() for p in loaded.pipeline.unet.parameters())
    return ModelTimes(request, parameters, tuple(rows))


def measured_times(
    run: Path, requests: Mapping[str, TimingRequest], report: Callable[[str], None]
) -> list[ModelTimes]:
    """The times of these models: those kept in a run with the same settings, else measured."""
    file = run / "sun-3.json"
    kept = {times.request: times for times in _read(file)}
    for spec, request in requests.items():
        if request not in kept:
            report(f"{spec}: measuring")
            kept[request] = measure_model(spec, request)
            _write(file, list(kept.values()))
    return [kept[request] for request in requests.values()]


def _read(file: Path) -> list[ModelTimes]:
    if not file.exists():
        return []
    models = read_versioned(file, SCHEMA_VERSION, "`sunbench paper sun-3`").get("models")
    if not isinstance(models, list):
        raise UserError(f"{file}: given no list of models, expected one")
    return [decode(ModelTimes, m, f"{file}, model {i}") for i, m in enumerate(models, 1)]


def _write(file: Path, models: list[ModelTimes]) -> None:
    make_folder(file.parent)
    document = {"schema_version": SCHEMA_VERSION, "models": [asdict(m) for m in models]}
    write_atomic(file, to_json(document))
