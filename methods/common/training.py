"""The one trainer: from a command line to the weights of any trained method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.losses import Feed
from sunbench.methods.common.networks import Guided
from sunbench.methods.common.settings import Guidance, settings_for
from sunbench.methods.common.sheet import Sheet
from sunbench.methods.common.trainees import Trainee, about_weights, parameters_of
from sunbench.models import LoadedModel, find_model, load
from sunbench.sampling import Method, SampleSettings
from sunbench.training import LoopSettings, fit
from sunbench.training.curves import draw_curves
from sunbench.training.data import TrainingImages, open_training_images
from sunbench.training.diffusion import Schedule
from sunbench.training.encode import encode_texts, schedule_of
from sunbench.training.record import Cost, averaged, record_cost, settle
from sunbench.training.request import TrainRequest
from sunbench.training.settings import TrainingSettings
from sunbench.training.trackers import Log, open_tracker
from sunbench.training.workers import workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """What a sheet samples: the method with the weights that were just written."""

    method: Method
    settings: SampleSettings


@dataclass(frozen=True)
class TrainingJob:
    """A loaded base, training images and settings, ready for a method to be trained in ``out``."""

    method: str
    loaded: LoadedModel
    data: TrainingImages
    settings: Any
    out: Path

    def __post_init__(self) -> None:
        pipeline = self.loaded.pipeline
        if pipeline.unet.config.time_cond_proj_dim is not None:
            raise UserError("the base's U-Net takes guidance as an input, expected a plain one")
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)

    @property
    def pipeline(self) -> Any:
        """The base's pipeline; all of it is frozen."""
        return self.loaded.pipeline

    @cached_property
    def schedule(self) -> Schedule:
        """The base's; UserError unless it predicts noise."""
        return schedule_of(self.pipeline)

    @cached_property
    def teacher(self) -> Guided:
        """The base under guidance; the empty text is encoded once."""
        return Guided(self.pipeline.unet, encode_texts(self.pipeline, [""]))

    @cached_property
    def learned(self) -> Guidance | None:
        """The scales that the student learns; None for one that is guided as the base is."""
        guidance: Guidance | None = self.settings.guidance(self.loaded.card.guidance_scale)
        return guidance

    @property
    def guidance(self) -> Guidance:
        """The same where the method learns some."""
        assert self.learned is not None
        return self.learned

    @property
    def preview_guidance(self) -> float:
        """The sheet's scale: the one that is learned, the card's, or the nearest to it."""
        card, g = self.loaded.card.guidance_scale, self.learned
        if g is None:
            return card
        return min(max(card, g.low), g.high)

    def feed(self, loop: LoopSettings, stage: int = 0) -> Feed:
        """Micro-batches; another stage has others."""
        seed = loop.seed + 7919 * stage
        return Feed(self.pipeline, self.data, self.learned, loop.batch, seed)

    def document(self, start: dict[str, str]) -> dict[str, object]:
        """What shapes the training besides the loop's settings; start: weights begun with."""
        card, g = self.loaded.card, self.learned
        return {
            "schema_version": 1,
            "method": self.method,
            "base": card.name,
            "base_sha256": dict(sorted(self.loaded.hashes.items())),
            "resolution": card.resolution,
            "data": self.data.name,
            **self.settings.content(),
            "learned_guidance": None if g is None else [g.low, g.high],
            "from": start,
        }

    def begin(self, start: dict[str, str]) -> dict[str, object]:
        """The document, written; UserError where the folder holds another training."""
        document = self.document(start)
        settle(self.out, document)
        return document

    @cached_property
    def sheet(self) -> Sheet | None:
        """Of captions that are never trained on; None where none is wanted."""
        n = min(self.settings.sheet, self.settings.loop.batch)
        if n == 0:
            return None
        positive, negative = self.sheet_texts(n)
        size = self.loaded.card.resolution
        return Sheet(self.pipeline, positive, negative, size, self.preview_guidance)

    def sheet_texts(self, n: int) -> tuple[Tensor, Tensor]:
        """Embeddings of n captions and of their negative prompts, here the empty one."""
        texts = encode_texts(self.pipeline, self.feed(self.settings.loop).captions(n)).cpu()
        return texts, self.teacher.empty.cpu().expand_as(texts)


@dataclass(frozen=True)
class Stage:
    """One run of the loop.

    folder: of its checkpoint, log and sheets; target: its weights; part: its name where a
    training has several; on_begin: see ``fit``; sheet: the job's, None where none is wanted.
    """

    job: TrainingJob
    trainee: Trainee
    loss: Callable[[int], dict[str, Tensor]]
    loop: LoopSettings
    folder: Path
    target: Path
    document: Mapping[str, object]
    preview: Preview
    part: str | None = None
    on_begin: Callable[[dict[str, Tensor]], None] | None = None

    def write(self, step: int = 0) -> None:
        """The weights as they are now, after a number of steps."""
        dtype = getattr(torch, self.job.settings.file_dtype)
        document = {**self.document, "loop": asdict(self.job.settings.loop)}
        learned = self.job.learned
        about = about_weights(document, None if learned is None else learned.single)
        self.trainee.write(self.target, {**about, "step": str(step)}, dtype)

    def _show(self, step: int, ema: dict[str, Tensor]) -> None:
        with averaged(self.trainee.module, ema):
            self.write(step)
        sheet = self.job.sheet
        if sheet is not None:
            with self.trainee.aside():
                images = sheet.sampled(self.preview.method, self.preview.settings)
            sheet.write(self.folder / f"sheet-{step:06d}.png", images)
        draw_curves(self.folder / "loss.csv", self.folder / "loss.png", "loss")
        self._account()

    def _account(self) -> None:
        cost = Cost.of(self.folder, self.loop, parameters_of(self.trainee.written))
        record_cost(self.job.out, cost, self.job.settings.loop, self.part)

    def _tracked(self) -> Log | None:
        """Where the losses go beside the log; nowhere by default."""
        name = self.job.settings.track
        if not name or not workers().first:
            return None
        run = "-".join(filter(None, (self.job.method, self.job.loaded.card.name, self.part)))
        return open_tracker(name, run, self.job.out / "tracker")

    def run(self) -> Path:
        """Train, write the averaged weights, keep them in the trainee; returns the target."""
        count = f"{parameters_of(self.trainee.written):,}"
        log.info("%s %s: %s parameters", self.job.method, self.part or "", count)
        if self.job.settings.gradient_checkpointing:
            self.trainee.unet.enable_gradient_checkpointing()
        module = self.trainee.module
        ema = fit(
            module,
            self.loss,
            self.loop,
            self.folder,
            on_begin=self.on_begin,
            on_log=self._tracked(),
            on_checkpoint=self._show,
        )
        module.load_state_dict(ema)
        if workers().first:
            self.write(
                self.loop.steps
            )  # again, for a training killed between its checkpoint and its file
            self._account()
        return self.target


def open_job(cls: type[TrainingSettings], request: TrainRequest) -> TrainingJob:
    """Everything that the user can have wrong is checked before weights load."""
    card = find_model(request.base)
    zoo = card.source == "zoo"
    settings = settings_for(request.method, cls, request.config, zoo=zoo)
    data = open_training_images(request.data, card.name, card.resolution, zoo=zoo)
    return TrainingJob(
        request.method, load(card, device=request.device), data, settings, request.out
    )


def start_file(spec: str | None, method: str, *, folders: bool = False) -> Path | None:
    """The weights that --from names; UserError unless they are here."""
    if spec is None:
        return None
    path = Path(spec)
    if (path.suffix == ".safetensors" and path.is_file()) or (folders and path.is_dir()):
        return path
    kinds = "a folder or .safetensors file" if folders else "a .safetensors file"
    raise UserError(f"given --from {spec!r}, expected {kinds} of {method} weights")
