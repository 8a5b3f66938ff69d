"""Result rows by hand, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from sunbench.store import ResultRow


def result_row(**changes: Any) -> ResultRow:
    """A candidate's row (ddim at 4 steps of the model tiny), with changes."""
    values: dict[str, Any] = {
        **{"model": "tiny", "method": "ddim", "role": "candidate", "steps": 4},
        **{"task": "text2image", "prompts": "zoo", "metric": "perceptual[zoo-clip]"},
        **{"value": 0.4, "low": 0.38, "high": 0.42, "n": 100, "nfe": 8},
        **{"protocol": "zoo CLIP", "feature_key": "", "reason": None, "key": "k"},
    }
    return ResultRow(**values | changes)
