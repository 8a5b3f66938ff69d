"""Coverage: how often 95 % intervals hold the truth over simulated runs with clustered prompts.

`python tests/benchmarks/coverage.py` runs the same study at full size.
"""

from __future__ import annotations

import coverage_study
import pytest


@pytest.mark.parametrize("statistic", coverage_study.STUDIES)
def test_intervals_hold_near_their_level(statistic: str):
    """A small number of runs: 60 of level 0.95 hold at least 50 but once in ten thousand times."""
    result = coverage_study.study(statistic, runs=60, samples=100)
    assert result.held >= 50, result


@pytest.mark.slow
@pytest.mark.parametrize("statistic", coverage_study.STUDIES)
def test_intervals_hold_at_their_level(statistic: str):
    draws = 1000 if statistic == "kid" else 200  # as each is estimated by default, or fewer
    result = coverage_study.study(statistic, runs=1000, samples=draws)
    assert 0.93 <= result.share <= 0.97, result
