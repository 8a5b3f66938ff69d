"""GITS as a method: DPM-Solver++(2M) on timesteps that were fitted on a base."""

from __future__ import annotations

from sunbench.methods.common.timesteps import SOLVER, ScheduledMethod
from sunbench.methods.common.weights import Weights

WEIGHTS = Weights("gits")


def gits() -> ScheduledMethod:
    """Timesteps by dynamic programming."""
    return ScheduledMethod("gits", SOLVER, WEIGHTS)
