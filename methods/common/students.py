"""Students that are a U-Net of their own with guidance as an input (``time_cond_proj_dim``).

w enters the time embedding as sines and cosines of 1000 w through ``time_embedding.cond_proj``;
diffusers' pipeline feeds w = guidance_scale - 1. So a guidance_scale of 0, harmless elsewhere,
would feed w = -1, and 1 the w = 0 that no distillation has seen: both are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel

from sunbench.errors import UserError
from sunbench.methods.common.deltas import added, is_difference, stored
from sunbench.methods.common.method import DistilledMethod
from sunbench.methods.common.weights import metadata, shape_of, unet_folder, weight_files
from sunbench.models.folder import folder_config
from sunbench.models.hashes import files_hash
from sunbench.models.mistakes import one_line
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings
from sunbench.store.tensors import Shapes, load_weights, read_header

#: The layer that w comes in by.
INPUT = "time_embedding.cond_proj.weight"


def check_guidance_input(guidance_scale: float) -> None:
    """Raise UserError unless w = guidance_scale - 1 is positive."""
    if not guidance_scale > 1:
        raise UserError(
            f"given guidance_scale {guidance_scale:g}, expected more than 1: the U-Net takes"
            " w = guidance_scale - 1 as an input and has learned w > 0"
        )


def student_config(unet: Any, dim: int | None) -> dict[str, Any]:
    """The config of a student of a U-Net, its w-embedding of ``dim`` numbers.

    diffusers notes which keys were left at their defaults and later ignores them, so notes go.
    """
    own = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    return {**own, "time_cond_proj_dim": dim}


def student_hash(path: Path) -> str:
    """The sha256 of a student's weights."""
    return files_hash(weight_files(path))


def _header(path: Path) -> Shapes:
    return {key: s for file in weight_files(path) for key, s in read_header(file).items()}


def _config(path: Path, header: Shapes, unet: Any) -> dict[str, Any]:
    """A folder's own config; a file is a student of the pipeline's own U-Net."""
    if path.is_dir():
        folder = unet_folder(path)
        return folder_config(folder.parent, folder.name, "unet")
    dim = header[INPUT][1] if len(header.get(INPUT, ())) == 2 else None
    return student_config(unet, dim)


def empty_student(path: Path, unet: Any) -> Any:
    """The student without its weights, on the meta device.

    Raises UserError in one line for a U-Net without the w-input, one of another architecture, and
    missing, extra or misshapen tensors; reads names and shapes only.
    """
    header = _header(path)
    config = _config(path, header, unet)
    if config.get("time_cond_proj_dim") is None:
        raise UserError(
            f"{path}: this U-Net takes no guidance (no time_cond_proj_dim), expected a student"
        )
    with torch.device("meta"), one_line(str(path)):
        student = UNet2DConditionModel.from_config(config)
    if shape_of(student) != shape_of(unet):
        raise UserError(
            f"{path}: student of another architecture ({shape_of(student)}),"
            f" expected {shape_of(unet)}"
        )
    wanted = _shapes(student)
    if is_difference(path):
        wanted = stored(path, wanted, _shapes(unet))
    _check_cover(path, header, wanted)
    return student


def _shapes(unet: Any) -> Shapes:
    return {key: tuple(x.shape) for key, x in unet.state_dict().items()}


def _check_cover(path: Path, shapes: Shapes, wanted: Mapping[str, tuple[int, ...]]) -> None:
    missing, extra = wanted.keys() - shapes.keys(), shapes.keys() - wanted.keys()
    wrong = [key for key in wanted.keys() & shapes.keys() if wanted[key] != shapes[key]]
    for words, keys in (
        ("lacks", missing),
        ("has in excess", extra),
        ("has other shapes of", wrong),
    ):
        if keys:
            example = min(keys)
            raise UserError(
                f"{path}: student of another architecture, it {words} {len(keys)} of"
                f" {len(wanted)} tensors, such as {example}"
            )


def origin(path: Path) -> dict[str, str]:
    """For the cell's key: the model that differences were trained from; else nothing."""
    return {"difference_of": metadata(path).get("base", "?")} if is_difference(path) else {}


def load_student(path: Path, unet: Any) -> Any:
    """The student with its weights, on the device and in the dtype of the pipeline's U-Net."""
    student = empty_student(path, unet)
    if is_difference(path):
        tensors = added(path, unet.state_dict())
    else:
        tensors = {key: x for file in weight_files(path) for key, x in load_weights(file).items()}
    place = unet.device, unet.dtype  # diffusers looks at every module for each
    own = {key: x.to(*place) for key, x in tensors.items()}
    student.load_state_dict(own, assign=True)
    return student.eval().requires_grad_(False)


@dataclass(frozen=True)
class StudentMethod(DistilledMethod):
    """A method whose U-Net replaces the pipeline's and takes guidance as an input."""

    training: ClassVar[str] = "once per model"

    def check(self, pipeline: Pipeline, settings: SampleSettings) -> None:
        """A positive w, and a student that fits."""
        check_guidance_input(settings.guidance_scale)
        empty_student(self.used(pipeline, settings), pipeline.unet)

    def network(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The student, read anew."""
        return load_student(self.used(pipeline, settings), pipeline.unet)

    def describe(self, path: Path) -> dict[str, object]:
        """The student by its hash; differences also by the model that they were trained from."""
        return {"sha256": student_hash(path), **origin(path)}

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key; without the negative prompt."""
        own = super().content(pipeline, settings)
        return {**own, "guidance": "w = guidance_scale - 1", "negative": "none"}
