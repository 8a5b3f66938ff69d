"""Cosine of embeddings, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.metrics.estimate import Floats, same_length


def cosine(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Cosine of row i of `a` with row i of `b`: (n, d), (n, d) -> (n,), in float64."""
    same_length(a=a, b=b)
    if a.shape != b.shape:
        raise UserError(f"given embeddings of {a.shape} and {b.shape}, expected one shape")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # refused as not finite by who asks
        result: Floats = (x * y).sum(1) / norms
    return result
