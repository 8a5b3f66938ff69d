"""DMD2 (Yin et al. 2024, arXiv 2405.14867) as a LoRA: x_0, noise to the next timestep, x_0 again.

That is LCM's way of sampling (section 4.4), so its scheduler serves; a step is one conditional
pass and there is no negative prompt.
"""

from __future__ import annotations

from sunbench.methods.common.method import MergedMethod
from sunbench.methods.common.weights import Weights
from sunbench.methods.lcm.method import GRID, SOLVER

WEIGHTS = Weights("dmd2-lora")


def dmd2_lora() -> MergedMethod:
    """DMD2's student, merged."""
    return MergedMethod("dmd2-lora", SOLVER, WEIGHTS, GRID)
