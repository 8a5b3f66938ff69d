"""What a training shows of itself: a sheet of samples and the curves of its losses."""

from __future__ import annotations

import copy
import csv
import io
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.methods.sun.adapter import SunAdapter
from sunbench.methods.sun.pipelines import load_sun, unload_sun
from sunbench.sampling import (
    ImageId,
    PipelineSampler,
    SampleBatch,
    SampleSettings,
    decode,
    latent_shape,
    make_batch,
)
from sunbench.store import write_atomic

STEPS = 4
REFERENCE_STEPS = 25
#: Columns of loss.csv that are no losses.
OTHERS = ("step", "rate", "images_per_s", "replaced")


class Sheet:
    """The 25-step reference above 4-step SUN, from the same noise.

    positive, negative: (n, tokens, width) of the sheet's texts; resolution: pixels a side.
    """

    def __init__(
        self, pipeline: Any, positive: Tensor, negative: Tensor, resolution: int, w: float
    ) -> None:
        self.pipeline, self.w = pipeline, w
        self.positive, self.negative, self.resolution = positive, negative, resolution

    def _batch(self) -> SampleBatch:
        images = [ImageId(f"sheet-{i}", 0) for i in range(len(self.positive))]
        shape = latent_shape(self.pipeline, self.resolution)
        return make_batch(images, self.positive, self.negative, shape)

    @cached_property
    def reference(self) -> Tensor:
        """The base's own pictures, sampled once: (n, 3, H, W) uint8."""
        own = copy.copy(self.pipeline)
        sampler = dpm_solver_pp().prepare(own, SampleSettings(REFERENCE_STEPS, self.w))
        return decode(own, sampler.sample(self._batch()))

    def sun(self, adapter: SunAdapter) -> Tensor:
        """The adapter's pictures: (n, 3, H, W) uint8."""
        own = copy.copy(self.pipeline)
        load_sun(own, adapter)
        own.set_progress_bar_config(disable=True)
        try:
            # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
            return decode(
                own, PipelineSampler(own, SampleSettings(STEPS, 2.0)).sample(self._batch())
            )
        finally:
            unload_sun(own)

    def write(self, path: Path, adapter: SunAdapter) -> None:
        """Two rows: reference, SUN."""
        rows = torch.cat([self.reference, self.sun(adapter)])
        grid = make_grid(rows.cpu(), nrow=len(self.positive), pad_value=255)
        data = io.BytesIO()
        to_pil_image(grid).save(data, "PNG")
        write_atomic(path, data.getvalue())


def read_curves(path: Path) -> tuple[list[int], dict[str, list[float]]]:
    """Steps and the losses at them, of a loss.csv."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name not in OTHERS]
    return [int(r["step"]) for r in rows], {n: [float(r[n]) for r in rows] for n in names}


def draw_curves(log_file: Path, path: Path) -> None:
    """Plot every loss of a loss.csv over its steps, on a log scale where all are positive."""
    steps, curves = read_curves(log_file)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, values in curves.items():
        axes.plot(steps, values, label=name, marker="." if len(steps) == 1 else None)
    if all(value > 0 for values in curves.values() for value in values):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("mean squared error of the noise")
    axes.legend(frameon=False)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    write_atomic(path, data.getvalue())
