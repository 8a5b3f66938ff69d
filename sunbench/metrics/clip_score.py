"""CLIP score and cosine consistency: functions of embeddings alone."""

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
    result: Floats = (x * y).sum(1) / norms
    return result


def clip_score(image_embeddings: NDArray[Any], text_embeddings: NDArray[Any]) -> Floats:
    """100 times the cosine of picture and prompt, (n,): no prefix, no clamp at zero.

    Source: as reported by BK-SDM (arXiv 2305.15798), times 100; Hessel et al. 2021 scale by 2.5.
    """
    return 100 * cosine(image_embeddings, text_embeddings)
