"""Measuring SUN's Table 3: methods take turns, so that a slow minute strikes all of them alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from sunbench.errors import UserError
from sunbench.models import find, load
from sunbench.models.sources import CONFIGS
from sunbench.paper.arms import Arm, arms
from sunbench.paper.clocks import clocks, device_name
from sunbench.sampling import (
    ImageId,
    SampleBatch,
    decode,
    latent_shape,
    make_batch,
)

#: Full shapes with random weights, for a GPU without any download.
SHAPES = {"sd1.5-shape": "sd1", "sd2.1-shape": "sd2"}


@dataclass(frozen=True)
class Timing:
    """How a table was timed, JSON-able."""

    model: str
    device: str
    dtype: str
    resolution: int
    rounds: int
    warm_up: int


@dataclass(frozen=True)
class Times:
    """Seconds of one row over the rounds: text encoder, U-Net, whole sampler, VAE decoder."""

    row: str
    steps: int
    cfg: str
    note: str
    nfe: float
    encode: tuple[float, ...]
    unet: tuple[float, ...]
    sample: tuple[float, ...]
    decode: tuple[float, ...]

    @property
    def pipeline(self) -> tuple[float, ...]:
        """Text encoder, sampler and VAE decoder together."""
        return tuple(map(sum, zip(self.encode, self.sample, self.decode, strict=True)))

    def component(self, name: str) -> tuple[float, ...]:
        """``pipeline`` or ``unet``."""
        return self.pipeline if name == "pipeline" else self.unet


# ------------------------------------------------------------------------------ pipelines


def _json(family: str, part: str) -> dict[str, Any]:
    file = next((CONFIGS / family / part).glob("*.json"))
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def random_pipeline(family: str, device: str, dtype: torch.dtype) -> Any:
    """A pipeline of Stable Diffusion's full shape with random weights and no tokenizer."""
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(_json(family, "unet"))
        vae = AutoencoderKL.from_config(_json(family, "vae"))
        text = CLIPTextModel(CLIPTextConfig(**_json(family, "text_encoder")))
    for part in (unet, vae, text):
        torch.nn.Module.to(part, dtype=dtype).eval().requires_grad_(False)
    scheduler = PNDMScheduler.from_config(_json(family, "scheduler"))
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pipeline_of(spec: str, device: str, dtype: str) -> tuple[Any, str, int]:
    """A pipeline, its name and its resolution: of a card, or of a shape with random weights."""
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UserError(f"given dtype {dtype!r}, expected float32, float16 or bfloat16")
    if spec in SHAPES:
        return random_pipeline(SHAPES[spec], device, kind), spec, 512
    card = find(spec)
    loaded = load(card, device=device, dtype=kind)
    return loaded.pipeline, card.name, card.resolution


# ------------------------------------------------------------------------------ measuring


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _inputs(pipeline: Any, resolution: int) -> tuple[SampleBatch, Tensor]:
    """One image's batch with random texts, and token ids for the text encoder: (2, tokens)."""
    config = pipeline.text_encoder.config
    g = torch.Generator().manual_seed(0)
    tokens = config.max_position_embeddings
    texts = torch.randn(2, 1, tokens, config.hidden_size, generator=g)
    ids = torch.randint(0, config.vocab_size, (2, tokens), generator=g)
    ids[:, -1] = config.eos_token_id
    shape = latent_shape(pipeline, resolution)
    batch = make_batch([ImageId("timing", 0)], texts[0], texts[1], shape)
    return batch, ids.to(pipeline.unet.device)


@torch.no_grad()
def once(arm: Arm, pipeline: Any, resolution: int) -> tuple[float, float, float, float]:
    """Seconds of one image: text encoder, U-Net, sampler, VAE decoder."""
    device = pipeline.unet.device
    batch, ids = _inputs(pipeline, resolution)
    began = _now(device)
    pipeline.text_encoder(ids[: arm.texts])
    encoded = _now(device)
    latents = arm.sampler.sample(batch)
    sampled = _now(device)
    decode(pipeline, latents)
    done = _now(device)
    return encoded - began, arm.sampler.unet_seconds, sampled - encoded, done - sampled


def turns(count: int, rounds: int) -> list[list[int]]:
    """Who goes when: everyone once a round, a different one first each time."""
    return [[(r + i) % count for i in range(count)] for r in range(rounds)]


def measure(
    pipeline: Any,
    resolution: int,
    rounds: int,
    warm_up: int,
    told: Callable[[str], None] = lambda text: None,
) -> list[Times]:
    """Time every row: ``warm_up`` untimed rounds, then ``rounds`` timed ones, in turns."""
    if rounds < 3 or warm_up < 1:
        raise UserError(f"given {rounds} rounds and {warm_up} warm-up, expected 3 and 1 or more")
    ready = arms(pipeline)
    kept: list[list[tuple[float, ...]]] = [[] for _ in ready]
    for r, turn in enumerate(turns(len(ready), warm_up + rounds)):
        told(f"round {r + 1} of {warm_up + rounds}")
        for i in turn:
            spent = once(ready[i], pipeline, resolution)
            if r >= warm_up:
                kept[i].append(spent)
    return [_times(arm, k) for arm, k in zip(ready, kept, strict=True)]


def _times(arm: Arm, kept: Sequence[tuple[float, ...]]) -> Times:
    columns = [tuple(c) for c in zip(*kept, strict=True)]
    return Times(arm.row, arm.steps, arm.cfg, arm.note, arm.sampler.nfe, *columns)


def spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median and the quartiles around it."""
    low, median, high = np.percentile(np.asarray(seconds), [25, 50, 75])
    return float(median), float(low), float(high)


def ratio(base: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """How many times faster, from ratios within rounds: median and quartiles."""
    return spread([a / b for a, b in zip(base, other, strict=True)])


# ------------------------------------------------------------------------------ keeping


def time_model(
    spec: str,
    *,
    device: str,
    dtype: str,
    rounds: int,
    warm_up: int,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time one model; everything about it as a JSON-able document."""
    pipeline, name, resolution = pipeline_of(spec, device, dtype)
    on = pipeline.unet.device
    before = clocks(on)
    found = measure(pipeline, resolution, rounds, warm_up, told)
    return {
        "timing": asdict(Timing(name, device, dtype, resolution, rounds, warm_up)),
        "device": device_name(on),
        "clocks_before": before,
        "clocks_after": clocks(on),
        "unet_parameters": sum(p.numel() for p in pipeline.unet.parameters()),
        "torch": torch.__version__,
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "rows": [asdict(t) for t in found],
    }


def times_of(document: dict[str, Any]) -> list[Times]:
    """The rows of a document."""
    return [_row(row) for row in document["rows"]]


def _row(row: dict[str, Any]) -> Times:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Times(**values)


def asked(spec: str, device: str, dtype: str, rounds: int, warm_up: int) -> Timing:
    """What a timing of this model will be called; nothing is loaded."""
    name, side = (spec, 512) if spec in SHAPES else _named(spec)
    return Timing(name, device, dtype, side, rounds, warm_up)


def _named(spec: str) -> tuple[str, int]:
    card = find(spec)
    return card.name, card.resolution
