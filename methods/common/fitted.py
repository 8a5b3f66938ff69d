"""Methods with a few numbers that were fitted once on a base: a table per number of steps.

A file holds a tensor per number of steps under that number's name. Plugged into a fine-tune, the
numbers stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.method import TrainedMethod
from sunbench.models.hashes import file_hash
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, SampleSettings
from sunbench.store import write_atomic
from sunbench.store.files import make_folder
from sunbench.store.tensors import check_finite, check_floating, load_tensors, read_header


def write_step_tables(path: Path, tables: Mapping[int, Tensor], about: Mapping[str, str]) -> None:
    """Write tables by their number of steps; about: metadata."""
    tensors = {str(n): x.detach().float().cpu().contiguous() for n, x in tables.items()}
    make_folder(path.parent)
    write_atomic(path, save(tensors, {**about, "format": "pt"}))


def read_step_tables(path: Path) -> dict[int, Tensor]:
    """Tables by their number of steps; UserError for a file of anything else."""
    header = read_header(path)
    odd = [name for name in header if not (name.isascii() and name.isdecimal() and int(name))]
    if odd or not len(header):
        raise UserError(
            f"{path}: holds {min(odd, default='nothing')}, expected a tensor per number of steps,"
            " named 4, 8, ..."
        )
    check_floating(path, header)
    tensors = load_tensors(path)
    check_finite(path, tensors)
    return {int(name): x for name, x in tensors.items()}


@dataclass(frozen=True)
class FittedMethod(TrainedMethod):
    """A solver under classifier-free guidance that numbers of a file steer."""

    what: ClassVar[str] = "numbers"

    def table(self, pipeline: Pipeline, settings: SampleSettings) -> Tensor:
        """The numbers for these steps; UserError where they are missing or make no sense."""
        path = self.weights.find(pipeline.unet)
        tables = read_step_tables(path)
        if settings.asked not in tables:
            known = ", ".join(map(str, sorted(tables)))
            raise UserError(f"{self.what} fitted for {known} steps, {settings.asked} asked")
        self.check_table(path, tables[settings.asked], settings, pipeline)
        return tables[settings.asked]

    def check_table(
        self, path: Path, table: Tensor, settings: SampleSettings, pipeline: Pipeline
    ) -> None:
        """Raise UserError unless the numbers can be for these steps."""
        raise NotImplementedError

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A table for these steps."""
        self.table(pipeline, settings)

    def describe(self, path: Path) -> dict[str, object]:
        """The weights by hash; ``content`` has the numbers themselves."""
        return {"sha256": file_hash(path)}

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key: the numbers that are used."""
        own = PipelineMethod.content(self, pipeline, settings)
        try:
            fitted = self.table(pipeline, settings).tolist()
        except UserError:  # ``skip`` gives it as its reason
            fitted = []
        return {**own, "fitted": fitted}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why it cannot run: a solver's reasons; no table, or none for these steps."""
        reason = PipelineMethod.skip(self, pipeline, settings)
        return reason or super().skip(pipeline, settings)

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations: two per step under guidance, one without."""
        return PipelineMethod.evaluations(self, settings)
