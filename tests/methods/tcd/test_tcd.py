"""Consistency along a trajectory: ends of TCD and of PCM, and what the ideal network's loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sunbench.methods.common.training import TrainingJob
from sunbench.methods.common.trajectory import TrajectoryLoss
from sunbench.methods.pcm.train import pcm_stage, phase_ends
from sunbench.methods.tcd.train import anywhere_below, tcd_stage


def test_tcd_ends_are_uniform_below():
    g = torch.Generator().manual_seed(0)
    t = torch.full((20_000,), 9)
    s = anywhere_below(t, g)
    counts = torch.bincount(s, minlength=10)
    assert len(counts) == 10
    assert bool((counts - 2000).abs().max() < 250)
    assert anywhere_below(torch.zeros(5).long(), g).tolist() == [0] * 5


def test_phases_are_cut_where_ddim_steps(make: Callable[..., TrainingJob]):
    assert phase_ends(make("pcm-lora").schedule, 4).tolist() == [0, 249, 499, 749]


def test_pcms_times_stay_in_their_phase(make: Callable[..., TrainingJob]):
    loss: Any = pcm_stage(make("pcm-lora", phases=4)).loss
    t, u, s = loss.times(4000, torch.Generator().manual_seed(0))
    ends = torch.tensor([0, 249, 499, 749, 999])
    assert set(s.tolist()) == {0, 249, 499, 749}
    upper = ends[torch.searchsorted(ends, s, right=True)]
    assert bool(((s < t) & (t <= upper)).all())
    assert bool(((s <= u) & (u < t) & (t - u <= 20)).all())


def test_tcds_times_fall(make: Callable[..., TrainingJob]):
    loss: Any = tcd_stage(make("tcd-lora")).loss
    t, u, s = loss.times(4000, torch.Generator().manual_seed(0))
    assert bool(((s <= u) & (u == t - 20).logical_or(u == 0)).all())
    assert {int(x) % 20 for x in t} == {19}


def test_noise_that_never_changes_is_consistent(make: Callable[..., TrainingJob]):
    """Of constant noise every DDIM step stays on one trajectory, so nothing is left to learn."""
    job = make("tcd-lora")
    feed = job.feed(job.settings.loop)

    def constant(x: torch.Tensor, *more: Any) -> torch.Tensor:
        return torch.full_like(x, 0.3)

    for ends in (anywhere_below, lambda t, g: torch.zeros_like(t)):
        loss = TrajectoryLoss(feed, job.schedule, constant, constant, 20, ends)
        assert float(loss(3)["loss"]) < 1e-8

    def other(x: torch.Tensor, *more: Any) -> torch.Tensor:
        return torch.full_like(x, 0.9)

    loss = TrajectoryLoss(feed, job.schedule, other, constant, 20, anywhere_below)
    assert float(loss(3)["loss"]) > 1e-6
