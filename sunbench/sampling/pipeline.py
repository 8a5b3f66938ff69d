"""Samplers that are a diffusers pipeline with a solver and a guidance rule."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunbench.errors import NotFinite
from sunbench.models.protocols import Pipeline
from sunbench.sampling.ahead import ahead
from sunbench.sampling.batch import SampleBatch
from sunbench.sampling.counter import UNetCounter
from sunbench.sampling.method import SampleSettings
from sunbench.sampling.solvers import SolverSpec
from sunbench.sampling.task import call_arguments, misfit, task_pipeline

log = logging.getLogger(__name__)

#: That a decoder works on at once: 16 images of 512 x 512, whose widest float32 map takes 4 GB.
DECODED_PIXELS = 16 * 512 * 512


def latent_shape(pipeline: Pipeline, resolution: int | None = None) -> tuple[int, int, int]:
    """(channels, h, w) of the pipeline's latents at a resolution in pixels (default: its own)."""
    factor = pipeline.vae_scale_factor
    side = pipeline.unet.config.sample_size if resolution is None else resolution // factor
    return pipeline.vae.config.latent_channels, side, side


@torch.no_grad()
def decode_latents(pipeline: Pipeline, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) -> images (B, 3, H, W) uint8, on the latents' device.

    At most DECODED_PIXELS at once, fewer where memory runs out. An image that overflows in half
    precision is decoded in float32. Raises NotFinite where that gives NaN or infinity too.
    """
    vae, pixels = pipeline.vae, latents[0, 0].numel() * int(pipeline.vae_scale_factor) ** 2
    size = max(1, DECODED_PIXELS // pixels)
    images, on_device = _in_parts(vae, latents, size)
    finite = on_device.cpu()  # the one time that the processor waits for the device
    if not finite.all() and vae.dtype in (torch.float16, torch.bfloat16):
        bad = (~finite).nonzero().flatten().to(images.device)
        images[bad], again = _in_float32(vae, latents[bad], size)
        finite = again.cpu()
    if not finite.all():
        raise NotFinite(f"decoded images are not finite ({type(vae).__name__}, {vae.dtype})")
    return images


def _in_parts(vae: Any, latents: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) uint8, and which of them are finite (B,): both on the device."""
    try:
        parts = [_decoded(vae, part) for part in latents.split(size)]
    except torch.OutOfMemoryError:
        if size == 1 or len(latents) == 1:
            raise
    else:
        images, finite = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(finite)
    torch.cuda.empty_cache()
    return _in_parts(vae, latents, min(size, len(latents)) // 2)


def _decoded(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    z = latents.to(vae.dtype) / vae.config.scaling_factor + shift
    x = vae.decode(z, return_dict=False)[0].float()  # -1..1
    finite = torch.isfinite(x).flatten(1).all(1)
    return (x / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8), finite


def _in_float32(vae: Any, latents: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As `_in_parts`; the weights are as before afterwards, which float32 holds exactly."""
    dtype = vae.dtype
    log.warning("%d images overflow in %s and are decoded in float32", len(latents), dtype)
    nn.Module.to(vae, torch.float32)
    try:
        return _in_parts(vae, latents, size)
    finally:
        nn.Module.to(vae, dtype)


class PipelineSampler:
    """Runs a diffusers pipeline on prepared embeddings, noise and source images."""

    def __init__(self, pipeline: Pipeline, settings: SampleSettings, counted: Any = None) -> None:
        """counted: the network whose evaluations count, where it is not the pipeline's U-Net."""
        self.pipeline, self.settings = task_pipeline(pipeline, settings.task), settings
        self.counted = counted or self.pipeline.unet
        #: Further arguments of the pipeline's call, such as eta.
        self.more: dict[str, Any] = {}
        self._nfe = 0.0

    @torch.no_grad()
    def sample(self, batch: SampleBatch) -> Tensor:
        """Denoise a batch; see ``Sampler.sample``."""
        pipe, s = self.pipeline, self.settings
        dtype, device = pipe.unet.dtype, pipe.unet.device
        negative = None if s.guidance_scale <= 1 else batch.negative_embeds.to(device, dtype)
        arguments = call_arguments(pipe, s.task, batch, s.strength)
        with UNetCounter(self.counted) as counter, ahead(pipe.scheduler, batch.generators, device):
            out = pipe(
                prompt_embeds=batch.prompt_embeds.to(device, dtype),
                negative_prompt_embeds=negative,
                generator=batch.generators,
                num_inference_steps=s.asked,
                guidance_scale=s.guidance_scale,
                output_type="latent",
                return_dict=False,
                **arguments,
                **self.more,
            )[0]
        self._nfe = counter.rows / len(batch)
        if not bool(torch.isfinite(out).all()):
            raise NotFinite(
                f"{s.steps}-step latents are not finite ({pipe.scheduler.__class__.__name__},"
                f" {dtype}); try float32"
            )
        return out

    @property
    def nfe(self) -> float:
        """U-Net evaluations per image of the last batch."""
        return self._nfe


def with_network(pipeline: Pipeline, unet: Any, solver: SolverSpec) -> Any:
    """A copy of a pipeline with another U-Net and a solver; the pipeline stays as it is."""
    own = copy.copy(pipeline)
    own.unet = unet
    own.scheduler = solver.build(pipeline.scheduler.config)
    own.set_progress_bar_config(disable=True)
    return own


def too_many(settings: SampleSettings, limit: str) -> str:
    """The reason for more steps than there are."""
    dropped = settings.asked != settings.steps
    why = f" for {settings.steps} at strength {settings.strength:g}" if dropped else ""
    return f"{settings.asked} steps asked{why}, {limit}"


@dataclass(frozen=True)
class PipelineMethod:
    """A training-free method: a solver under classifier-free guidance.

    fixed_guidance_scale: the scale that it always samples with; None takes the settings', which are
    the reference's too.
    """

    name: str
    solver: SolverSpec
    fixed_guidance_scale: float | None = field(default=None, kw_only=True)
    max_steps: ClassVar[int] = 1000
    #: What must be trained before: "none", "once per base" or "once per model".
    training: ClassVar[str] = "none"
    #: Whether evaluations depend on more than the settings, so that ``evaluations`` is the most.
    nfe_varies: ClassVar[bool] = False
    #: Whether the same layers run at every step.
    fixed_layers: ClassVar[bool] = True
    #: Whether the pipeline calls a plain U-Net, with nothing before or inside of it.
    plain_unet: ClassVar[bool] = True
    #: Whether a pass may take less time than one of the model's own U-Net, as a smaller one does.
    cheaper_passes: ClassVar[bool] = False

    @property
    def negative_prompts(self) -> bool:
        """Whether the negative prompt acts."""
        return self.fixed_guidance_scale is None or self.fixed_guidance_scale > 1

    def guided(self, settings: SampleSettings) -> SampleSettings:
        """The settings with this method's own guidance_scale, where it has one."""
        if self.fixed_guidance_scale is None:
            return settings
        return replace(settings, guidance_scale=self.fixed_guidance_scale)

    def trained_weights(self, pipeline: Pipeline) -> tuple[Path, str] | None:
        """What was trained, and the name of its training; UserError where it is missing."""
        return None

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        fixed = self.fixed_guidance_scale
        own = {} if fixed is None else {"fixed_guidance_scale": fixed}
        return {"method": self.name, "solver": self.solver.content(), "guidance": "cfg", **own}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Runs on every model and task; only its steps are bounded, by the training schedule."""
        limit = pipeline.scheduler.config.num_train_timesteps
        if settings.asked > limit:
            return too_many(settings, f"the schedule has {limit}")
        if (reason := misfit(pipeline, settings.task)) is not None:
            return reason
        guided = self.guided(settings).guidance_scale > 1
        if guided and pipeline.unet.config.time_cond_proj_dim is not None:
            return "the U-Net takes guidance as an input, so it cannot run CFG"
        return None

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations: two per step under guidance, one without."""
        return settings.steps * (2 if self.guided(settings).guidance_scale > 1 else 1)

    def expected_nfe(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """Evaluations of one image as they are known before; the most where images decide."""
        return self.evaluations(settings)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Give the pipeline this method's scheduler."""
        pipeline.scheduler = self.solver.build(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        return PipelineSampler(pipeline, self.guided(settings))

    def release(self, pipeline: Pipeline) -> None:
        """Nothing to undo: every method sets its own scheduler."""
