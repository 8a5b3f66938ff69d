"""LD3 as a method: DPM-Solver++(2M) on timesteps that were learned on a base."""

from __future__ import annotations

from sunbench.methods.common.timesteps import SOLVER, ScheduledMethod
from sunbench.methods.common.weights import Weights

WEIGHTS = Weights("ld3")


def ld3() -> ScheduledMethod:
    """Timesteps by gradient descent."""
    return ScheduledMethod("ld3", SOLVER, WEIGHTS)
