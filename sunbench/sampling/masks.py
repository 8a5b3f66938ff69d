"""Masks of inpainting: what is painted anew, by name or from an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sunbench.errors import UserError, unknown
from sunbench.store.lossless import UNREADABLE, open_image

#: Name -> painted rows and columns, as shares of the side.
NAMED = {
    "center": ((0.25, 0.75), (0.25, 0.75)),
    "left": ((0.0, 1.0), (0.0, 0.5)),
    "right": ((0.0, 1.0), (0.5, 1.0)),
    "top": ((0.0, 0.5), (0.0, 1.0)),
    "bottom": ((0.5, 1.0), (0.0, 1.0)),
}


def check_mask(spec: str) -> None:
    """Raise UserError unless ``spec`` is a mask's name or an image's path."""
    if spec in NAMED:
        return
    if not Path(spec).is_file():
        raise unknown("mask", spec, NAMED)
    _image(Path(spec), 8)


def mask(spec: str, side: int) -> Tensor:
    """A mask (side, side) float: 1 is painted, 0 stays. ``spec``: a name or an image's path.

    An image is resized without smoothing; what is brighter than half is painted.
    """
    check_mask(spec)
    painted = _box(spec, side) if spec in NAMED else _image(Path(spec), side)
    if not 0 < float(painted.mean()) < 1:
        raise UserError(f"given mask {spec!r}, which paints all or nothing, expected a part")
    return painted


def _box(name: str, side: int) -> Tensor:
    box = torch.zeros(side, side)
    rows, columns = (slice(round(a * side), round(b * side)) for a, b in NAMED[name])
    box[rows, columns] = 1
    return box


def _image(path: Path, side: int) -> Tensor:
    try:
        with open_image(path) as image:
            small = image.convert("L").resize((side, side), Image.Resampling.NEAREST)
    except UNREADABLE as error:
        raise UserError(f"given mask {path}, which is not an image ({error})") from error
    return torch.from_numpy((np.asarray(small) > 127).astype(np.float32))
