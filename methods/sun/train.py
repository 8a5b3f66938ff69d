"""SUN's training: Algorithm 1 of arXiv 2312.08887 on the shared loop."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sunbench.methods.common.sheet import STEPS
from sunbench.methods.common.trainees import Trainee
from sunbench.methods.common.training import Preview, Stage, TrainingJob
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
from sunbench.methods.sun.method import sun
from sunbench.methods.sun.negatives import negative_prompt, vocabulary
from sunbench.methods.sun.pipelines import check_pipeline
from sunbench.methods.sun.settings import SunTraining, read_settings
from sunbench.models import LoadedModel, find_model, load
from sunbench.models.protocols import Pipeline
from sunbench.prompts.negatives import Vocabulary
from sunbench.sampling import SampleSettings
from sunbench.training.data import TrainingImages, open_training_images
from sunbench.training.encode import encode_images, encode_texts, schedule_of
from sunbench.training.prefetch import Prefetcher
from sunbench.training.request import TrainRequest

# ------------------------------------------------------------------------------ loss


@dataclass(frozen=True)
class SunLoss:
    """The loss of a micro-batch, by its number alone (lines 2 to 7 of Algorithm 1).

    The adapter is bound to the pipeline's U-Net; w is the teacher's guidance. With ``pool`` the
    micro-batch k is number k modulo pool, and what the teacher says of it is computed once and
    kept: only the student's pass is left of a repeated one.
    """

    pipeline: Pipeline
    adapter: SunAdapter
    data: TrainingImages
    words: Vocabulary
    settings: SunTraining
    w: float
    kept: dict[int, tuple[Pair, Targets]] = field(default_factory=dict, compare=False, repr=False)

    def texts(self, k: int) -> tuple[Tensor, list[str], list[str], torch.Generator]:
        """Images, captions and negative prompts of a micro-batch, and the generator after."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.loop.seed * 1_000_003 + k)
        images, captions = self.data.draw(s.loop.batch, generator)
        rng = random.Random(f"negative prompts of {s.loop.seed}/{k}")
        return images, captions, [self._negative(rng) for _ in captions], generator

    @cached_property
    def _prefetched(self) -> Prefetcher[tuple[Tensor, list[str], list[str], torch.Generator]]:
        return Prefetcher(self.texts, self.pipeline.unet.device)

    def _negative(self, rng: random.Random) -> str:
        empty = rng.random() < self.settings.empty_negatives
        return "" if empty else negative_prompt(rng, self.words)

    def draw(self, images: Tensor, generator: torch.Generator) -> Draw:
        """x_0, noise, t and i of a micro-batch, drawn on the CPU: no device changes them."""
        s, device = self.settings, self.pipeline.unet.device
        x_0 = encode_images(self.pipeline, images, generator)
        eps = torch.randn(x_0.shape, generator=generator)
        t = s.draw_times(len(x_0), generator)
        replaced = torch.rand(len(x_0), generator=generator) < s.p
        replaced = replaced & can_be_replaced(t, s.delta)
        return Draw(x_0, eps.to(device), t.to(device), replaced)

    def aim(self, k: int) -> tuple[Pair, Targets]:
        """The networks under a micro-batch's texts, and what the student should say."""
        s = self.settings
        images, captions, negatives, generator = self._prefetched(k)
        c = encode_texts(self.pipeline, captions + negatives)
        positive, negative = c.chunk(2)
        pair = Pair(self.pipeline.unet, self.adapter, positive, negative, self.w)
        draw = self.draw(images, generator)
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


class AdapterTrainee(Trainee):
    """A SUN adapter beside the base's own U-Net, which is teacher and student in one."""

    def __init__(self, unet: Any, adapter: SunAdapter) -> None:
        self.unet, self.adapter = unet, adapter
        self.module: nn.Module = adapter
        self.binding = adapter.bind(unet)

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """One file, by attention names."""
        write_adapter(self.adapter, path, dtype=dtype, about=about)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Out of the U-Net for a while."""
        self.binding.release()
        try:
            yield
        finally:
            self.binding = self.adapter.bind(self.unet)


class SunTrainingJob(TrainingJob):
    """What a SUN training begins with; its sheet has negative prompts of its own."""

    @cached_property
    def words(self) -> Vocabulary:
        """Phrases of negative prompts."""
        s, zoo = self.settings, self.loaded.card.architecture == "zoo"
        return vocabulary(s.phrases, s.max_phrases, zoo=zoo)

    def loss(self, adapter: SunAdapter) -> SunLoss:
        """Of an adapter that is bound to the base."""
        w = self.guidance.low
        return SunLoss(self.pipeline, adapter, self.data, self.words, self.settings, w)

    def document(self, start: dict[str, str]) -> dict[str, object]:
        """As for all, with the teacher's guidance."""
        return {**super().document(start), "guidance_scale": self.guidance.low}

    def sheet_texts(self, n: int) -> tuple[Tensor, Tensor]:
        """Of a micro-batch that is never trained on."""
        _, captions, negatives, _ = self.loss(self.adapter()).texts(2**40)
        c = encode_texts(self.pipeline, captions[:n] + negatives[:n]).cpu()
        positive, negative = c.chunk(2)
        return positive, negative

    def adapter(self) -> SunAdapter:
        """The adapter as the training begins."""
        s = self.settings
        return SunAdapter.for_unet(
            self.pipeline.unet,
            add_pos=s.add_pos,
            norm=s.norm,
            init=s.init,
            alpha0=s.alpha0,
            seed=s.loop.seed,
        )


def train_adapter(
    loaded: LoadedModel, data: TrainingImages, settings: SunTraining, out: Path
) -> Path:
    """Train an adapter beside a loaded base; returns ``out/sun.safetensors``.

    Writes that file (averaged weights), loss.png and sheet-<step>.png at every checkpoint.
    Raises UserError where the folder holds another training or the loss is not finite.
    """
    check_pipeline(loaded.pipeline)
    schedule_of(loaded.pipeline)
    job = SunTrainingJob("sun", loaded, data, settings, out)
    target = out / "sun.safetensors"
    preview = Preview(
        sun().with_weights(str(target), None), SampleSettings(STEPS, job.preview_guidance)
    )
    document, adapter = job.begin({}), job.adapter()
    trainee = AdapterTrainee(job.pipeline.unet, adapter)
    try:
        return Stage(
            job, trainee, job.loss(adapter), settings.loop, out, target, document, preview
        ).run()
    finally:
        trainee.binding.release()


def train(request: TrainRequest) -> Path:
    """``sunbench train sun``: everything the user can have wrong is checked before weights load."""
    request.refuse_start("starts at the base itself")
    card = find_model(request.base)
    zoo = card.source == "zoo"
    settings = read_settings(request.config, zoo=zoo)
    data = open_training_images(request.data, card.name, card.resolution, zoo=zoo)
    if settings.phrases:
        vocabulary(settings.phrases, settings.max_phrases, zoo=False)
    return train_adapter(load(card, device=request.device), data, settings, request.out)
