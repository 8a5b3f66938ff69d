"""What a task adds to a text: a source image, a mask, edges; and how diffusers is called for it.

Strength means what it means in diffusers, but a number of steps is a number of U-Net passes:
diffusers drops ``1 - strength`` of the steps it is asked for, so that many more are asked.
"""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.sampling.batch import SampleBatch
from sunbench.sampling.edges import edges

#: The task and the pipeline of diffusers that does it.
PIPELINES = {
    "text2image": "StableDiffusionPipeline",
    "image2image": "StableDiffusionImg2ImgPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "controlnet": "StableDiffusionControlNetPipeline",
}
TASKS = tuple(PIPELINES)


def asked_steps(steps: int, strength: float) -> int:
    """How many steps diffusers must be asked for so that it takes ``steps`` at this strength.

    The fewest, so that the first time step is the nearest to strength x 1000. It is the same for
    all numbers of steps where steps / strength is whole, as at strength 0.5.
    """
    near = math.ceil(steps / strength)
    return next(n for n in range(max(near - 2, steps), near + 3) if int(n * strength) == steps)


def misfit(pipeline: Pipeline, task: str) -> str | None:
    """Why a pipeline cannot do a task; None when it can."""
    wanted = PIPELINES[task]
    if wanted not in {kind.__name__ for kind in type(pipeline).__mro__}:
        return f"task {task} needs a {wanted}, given a {type(pipeline).__name__}"
    return _control_misfit(pipeline) if task == "controlnet" else None


def _control_misfit(pipeline: Any) -> str | None:
    names = ("block_out_channels", "layers_per_block", "cross_attention_dim", "in_channels")
    for name in names:
        mine, theirs = pipeline.unet.config[name], pipeline.controlnet.config[name]
        if _plain(mine) != _plain(theirs):
            return f"the ControlNet is for a U-Net of {name} {theirs}, this one has {mine}"
    return None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


@torch.no_grad()
def encode(pipeline: Pipeline, images: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) of images (B, 3, H, W) in -1..1: ``decode`` the other way.

    Of a VAE that gives a distribution its mode, so that reference and candidate share one latent.
    """
    vae = pipeline.vae
    encoded = vae.encode(images.to(vae.device, vae.dtype))
    z = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (z - shift) * vae.config.scaling_factor


# ------------------------------------------------------------------------------ pipelines


class _NoisyImage:
    """Image-to-image from the noise that belongs to each image, instead of a draw inside."""

    scheduler: Any
    noise: Tensor

    def prepare_latents(
        self,
        image: Tensor,
        timestep: Tensor,
        batch_size: int,
        num_images_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Any = None,
    ) -> Tensor:
        """Source latents at the first time step."""
        noisy: Tensor = self.scheduler.add_noise(image.to(device, dtype), self.noise, timestep)
        return noisy


class _NoisyPaint:
    """Inpainting from given noise at every strength: diffusers takes given latents for pure noise.

    The noise is also what the known region is noised with at each step of a 4-channel U-Net.
    """

    scheduler: Any

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Any,
        latents: Tensor,
        image: Tensor,
        timestep: Tensor,
        is_strength_max: bool = True,
        return_noise: bool = False,
        return_image_latents: bool = False,
    ) -> tuple[Tensor, ...]:
        """Start, noise and, for a 4-channel U-Net, the source's latents."""
        noise, known = latents.to(device, dtype), image.to(device, dtype)
        if is_strength_max:
            start = noise * self.scheduler.init_noise_sigma
        else:
            start = self.scheduler.add_noise(known, noise, timestep)
        return (start, noise, known) if return_image_latents else (start, noise)


_FRONT: dict[str, type] = {"image2image": _NoisyImage, "inpaint": _NoisyPaint}


def task_pipeline(pipeline: Pipeline, task: str) -> Any:
    """The pipeline itself, or for a task that draws noise inside, a copy that takes it."""
    front = _FRONT.get(task)
    if front is None or isinstance(pipeline, front):
        return pipeline
    kind = type(pipeline)
    taking: Any = type(kind.__name__, (front, kind), {"__module__": kind.__module__})
    own = taking.__new__(taking)
    vars(own).update(vars(pipeline))
    return own


def text_pipeline(pipeline: Pipeline) -> Any:
    """The text2image pipeline of a task's networks, for images that start from text alone."""
    parts = {name: part for name, part in pipeline.components.items() if name != "controlnet"}
    own = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    return own


# ------------------------------------------------------------------------------ arguments


def call_arguments(
    pipeline: Pipeline, task: str, batch: SampleBatch, strength: float
) -> dict[str, Any]:
    """What diffusers' pipeline of the task is called with, beside texts, steps and guidance."""
    noise = batch.latents.to(pipeline.unet.device, pipeline.unet.dtype)
    if task == "text2image":
        return {"latents": noise}
    if batch.inputs is None:
        raise UserError(f"given no source images, expected one per image for task {task}")
    images = batch.inputs.images.to(pipeline.unet.device)
    if task == "controlnet":
        return {"latents": noise, "image": edges(images).to(noise.dtype)}
    x = images.float() / 127.5 - 1
    if task == "image2image":
        taking: Any = pipeline  # of `task_pipeline`
        taking.noise = noise
        return {"image": encode(pipeline, x), "strength": strength}
    return {"latents": noise, "strength": strength, **_paint(pipeline, x, batch.inputs.mask)}


def _paint(pipeline: Pipeline, x: Tensor, mask: Tensor | None) -> dict[str, Any]:
    if mask is None:
        raise UserError("given no mask, expected one for task inpaint")
    known, painted = encode(pipeline, x), mask.to(x)
    if pipeline.unet.config.in_channels == known.shape[1]:
        masked = known  # diffusers wants some, and reads them only for 9 channels
    else:
        masked = encode(pipeline, x * (painted < 0.5))
    return {
        "image": known,
        "mask_image": painted[None, None],
        "masked_image_latents": masked,
        "height": x.shape[-2],
        "width": x.shape[-1],
    }
