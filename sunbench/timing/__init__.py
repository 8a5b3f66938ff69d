"""Latency, throughput and peak memory from a pass of their own, never from sampling a run."""

from sunbench.timing.estimate import seconds_per_evaluation
from sunbench.timing.measure import LEVELS, TimingSettings, measure_times, timed_method
from sunbench.timing.rounds import TimedMethod

__all__ = [
    "LEVELS",
    "TimedMethod",
    "TimingSettings",
    "measure_times",
    "seconds_per_evaluation",
    "timed_method",
]
