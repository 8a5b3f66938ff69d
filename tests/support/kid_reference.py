"""KID as the literature defines it, to check ours against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunbench.metrics.kid import kernel


def kid_independent(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """Kernel distance of two independent sets (n, d), (n, d)."""
    x, y = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    n = len(x)
    inner = sum(kernel(a, a).sum() - np.trace(kernel(a, a)) for a in (x, y)) / (n * (n - 1))
    return float(inner - 2 * kernel(x, y).mean())
