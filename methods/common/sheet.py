"""A sheet of samples: the base's 25-step images above those of a training, same noise.

A sheet is a preview and no cell of the runner. It shows a student between two updates, whose
weights have no file and no hash, so nothing could be its key; it enters no number, and a training
that continues draws it again. It goes through the one sampler interface with each image's own
noise (`sample_images`), and the reference beside it is a method of the registry.
"""

from __future__ import annotations

import copy
import io
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import (
    ImageId,
    Method,
    SampleBatch,
    SampleSettings,
    latent_shape,
    make_batch,
    sample_images,
)
from sunbench.store import write_atomic

STEPS = 4
REFERENCE_STEPS = 25


class Sheet:
    """The texts and noise of a sheet, and the reference's images of them.

    positive, negative: (n, tokens, width) of the texts; resolution: pixels per side.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        positive: Tensor,
        negative: Tensor,
        resolution: int,
        guidance_scale: float,
    ) -> None:
        self.pipeline, self.guidance_scale = pipeline, guidance_scale
        self.positive, self.negative, self.resolution = positive, negative, resolution

    def batch(self) -> SampleBatch:
        """The same texts and noise at every call."""
        images = [ImageId(f"sheet-{i}", 0) for i in range(len(self.positive))]
        shape = latent_shape(self.pipeline, self.resolution)
        return make_batch(images, self.positive, self.negative, shape)

    @cached_property
    def reference(self) -> Tensor:
        """The base's own images, sampled once: (n, 3, H, W) uint8."""
        settings = SampleSettings(REFERENCE_STEPS, self.guidance_scale)
        return self.sampled(dpm_solver_pp(), settings)

    def sampled(self, method: Method, settings: SampleSettings) -> Tensor:
        """Images of a method, as a run would sample them: (n, 3, H, W) uint8."""
        own = copy.copy(self.pipeline)  # its scheduler is not the training's
        return sample_images(own, method, settings, self.batch())

    def write(self, path: Path, images: Tensor) -> None:
        """Two rows: the reference, the images."""
        rows = torch.cat([self.reference, images])
        grid = make_grid(rows.cpu(), nrow=len(self.positive), pad_value=255)
        data = io.BytesIO()
        to_pil_image(grid).save(data, "PNG")
        write_atomic(path, data.getvalue())
