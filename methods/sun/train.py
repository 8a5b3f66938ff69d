"""SUN's training: Algorithm 1 of arXiv 2312.08887 on the shared loop."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.sheet import Sheet
from sunbench.methods.sun.adapter import SunAdapter
from sunbench.methods.sun.files import write_adapter
from sunbench.methods.sun.loss import (
    Draw,
    Pair,
    Targets,
    can_be_replaced,
    sun_loss,
    targets,
)
from sunbench.methods.sun.negatives import negative_prompt, vocabulary
from sunbench.methods.sun.pipelines import check_pipeline
from sunbench.methods.sun.settings import SunTraining, read_settings
from sunbench.methods.sun.sheet import sun_pictures
from sunbench.models import LoadedModel, find, load
from sunbench.prompts.negatives import Vocabulary
from sunbench.training import fit
from sunbench.training.data import Pictures, open_pictures
from sunbench.training.encode import encode_pictures, encode_texts, schedule_of
from sunbench.training.record import Cost, averaged, draw_curves, record_cost, settle
from sunbench.training.workers import workers

log = logging.getLogger(__name__)

# ------------------------------------------------------------------------------ loss


@dataclass(frozen=True)
class SunLoss:
    """The loss of a micro-batch, by its number alone (lines 2 to 7 of Algorithm 1).

    The adapter is bound to the pipeline's U-Net; w is the teacher's guidance. With ``pool`` the
    micro-batch k is number k modulo pool, and what the teacher says of it is computed once and
    kept: only the student's pass is left of a repeated one.
    """

    pipeline: Any
    adapter: SunAdapter
    pictures: Pictures
    words: Vocabulary
    settings: SunTraining
    w: float
    kept: dict[int, tuple[Pair, Targets]] = field(default_factory=dict, compare=False, repr=False)

    def texts(self, k: int) -> tuple[Tensor, list[str], list[str], torch.Generator]:
        """Pictures, captions and negative prompts of a micro-batch, and the generator after."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.loop.seed * 1_000_003 + k)
        pictures, captions = self.pictures.draw(s.loop.batch, generator)
        rng = random.Random(f"negative prompts of {s.loop.seed}/{k}")
        return pictures, captions, [self._negative(rng) for _ in captions], generator

    def _negative(self, rng: random.Random) -> str:
        empty = rng.random() < self.settings.empty_negatives
        return "" if empty else negative_prompt(rng, self.words)

    def draw(self, pictures: Tensor, generator: torch.Generator) -> Draw:
        """x_0, noise, t and i of a micro-batch, drawn on the CPU: no device changes them."""
        s, device = self.settings, self.pipeline.unet.device
        x_0 = encode_pictures(self.pipeline, pictures, generator)
        eps = torch.randn(x_0.shape, generator=generator)
        t = s.draw_times(len(x_0), generator)
        replaced = torch.rand(len(x_0), generator=generator) < s.p
        replaced = replaced & can_be_replaced(t, s.delta)
        return Draw(x_0, eps.to(device), t.to(device), replaced)

    def aim(self, k: int) -> tuple[Pair, Targets]:
        """The networks under a micro-batch's texts, and what the student should say."""
        s = self.settings
        pictures, captions, negatives, generator = self.texts(k)
        c = encode_texts(self.pipeline, captions + negatives)
        positive, negative = c.chunk(2)
        pair = Pair(self.pipeline.unet, self.adapter, positive, negative, self.w)
        draw = self.draw(pictures, generator)
        schedule = schedule_of(self.pipeline)
        aim = targets(pair, schedule, draw, delta=s.delta, n=s.substeps, step=s.l_step)
        # older torch keeps weights that autocast cast: those of the pass above have no gradient
        torch.clear_autocast_cache()
        return pair, aim

    def kept_aim(self, k: int) -> tuple[Pair, Targets]:
        """The same, kept for as long as the training runs where there is a pool."""
        if not self.settings.pool:
            return self.aim(k)
        number = k % self.settings.pool
        if number not in self.kept:
            self.kept[number] = self.aim(number)
        return self.kept[number]

    def __call__(self, k: int) -> dict[str, Tensor]:
        """``loss`` (Eq. 14) and its parts."""
        pair, aim = self.kept_aim(k)
        out = pair.student(aim.x, aim.timestep)
        return sun_loss(out, aim, lam=self.settings.lam, cfg=self.settings.l_cfg)


# ------------------------------------------------------------------------------ training


def _document(loaded: LoadedModel, pictures: Pictures, loss: SunLoss) -> dict[str, Any]:
    """What shapes a training besides the loop's settings."""
    return {
        "schema_version": 1,
        "method": "sun",
        "base": loaded.card.name,
        "base_sha256": dict(sorted(loaded.hashes.items())),
        "resolution": loaded.card.resolution,
        "data": pictures.name,
        **loss.settings.content(),
        "guidance_scale": loss.w,
    }


def _sheet(loss: SunLoss, resolution: int) -> Sheet | None:
    """Of the texts of a micro-batch that is never trained on."""
    n = min(loss.settings.sheet, loss.settings.loop.batch)
    if n == 0:
        return None
    _, captions, negatives, _ = loss.texts(2**40)
    c = encode_texts(loss.pipeline, captions[:n] + negatives[:n]).cpu()
    positive, negative = c.chunk(2)
    return Sheet(loss.pipeline, positive, negative, resolution, loss.w)


def _about(document: dict[str, Any], settings: SunTraining, step: int) -> dict[str, str]:
    """Metadata of the adapter's file."""
    base = {"base": document["base"], "base_sha256": json.dumps(document["base_sha256"])}
    training = {**document, "loop": asdict(settings.loop)}
    return {**base, "training": json.dumps(training), "step": str(step)}


def train_adapter(
    loaded: LoadedModel, pictures: Pictures, settings: SunTraining, out: Path
) -> Path:
    """Train an adapter beside a loaded base; returns ``out/sun.safetensors``.

    Writes that file (averaged weights), loss.png and sheet-<step>.png at every checkpoint.
    Raises UserError where the folder holds another training or the loss is not finite.
    """
    pipeline, card = loaded.pipeline, loaded.card
    check_pipeline(pipeline)
    schedule_of(pipeline)
    zoo = card.architecture == "zoo"
    words = vocabulary(settings.phrases, settings.max_phrases, zoo=zoo)
    w = card.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    if settings.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    adapter = SunAdapter.for_unet(
        pipeline.unet,
        add_pos=settings.add_pos,
        norm=settings.norm,
        init=settings.init,
        alpha0=settings.alpha0,
        seed=settings.loop.seed,
    )
    loss = SunLoss(pipeline, adapter, pictures, words, settings, w)
    document = _document(loaded, pictures, loss)
    settle(out, document)
    binding = adapter.bind(pipeline.unet)
    try:
        return _fit(loss, out, _sheet(loss, card.resolution), document)
    finally:
        binding.release()


def _fit(loss: SunLoss, out: Path, sheet: Sheet | None, document: dict[str, Any]) -> Path:
    adapter, settings, target = loss.adapter, loss.settings, out / "sun.safetensors"
    dtype = getattr(torch, settings.file_dtype)
    log.info("%s parameters, %s form", f"{adapter.parameter_count:,}", adapter.form)

    def show(step: int, ema: dict[str, Tensor]) -> None:
        with averaged(adapter, ema):
            write_adapter(adapter, target, dtype=dtype, about=_about(document, settings, step))
            if sheet is not None:
                sheet.write(out / f"sheet-{step:06d}.png", sun_pictures(sheet, adapter))
        draw_curves(out / "loss.csv", out / "loss.png")
        record_cost(out, Cost.of(out, settings.loop, adapter.parameter_count), settings.loop)

    ema = fit(adapter, loss, settings.loop, out, on_checkpoint=show)
    if workers().first:  # again, for a training killed between its checkpoint and its file
        about = _about(document, settings, settings.loop.steps)
        with averaged(adapter, ema):
            write_adapter(adapter, target, dtype=dtype, about=about)
    return target


def train(
    base: str,
    out: Path,
    config: Path | None,
    data: str | None,
    device: str,
    start: str | None = None,
) -> Path:
    """``sunbench train sun``: everything the user can have wrong is checked before weights load."""
    if start is not None:
        raise UserError(f"given --from {start!r}: sun starts at the base itself, expected none")
    card = find(base)
    zoo = card.source == "zoo"
    settings = read_settings(config, zoo=zoo)
    pictures = open_pictures(data, card.name, card.resolution, zoo=zoo)
    if settings.phrases:
        vocabulary(settings.phrases, settings.max_phrases, zoo=False)
    return train_adapter(load(card, device=device), pictures, settings, out)
