"""Batches made ahead are those that would have been made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sunbench.training.prefetch import Prefetcher


def make(k: int) -> tuple[Tensor, list[str], torch.Generator]:
    g = torch.Generator().manual_seed(k)
    return torch.randn(3, generator=g), [f"caption {k}"], g


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_batches_of_other_processes_are_those_of_their_numbers() -> None:
    ahead = Prefetcher(make, "cpu")
    ahead._ahead = True
    before = torch.get_rng_state()
    for k in (5, 6, 7, 7, 3, 4):
        (images, captions, g), (expected, texts, own) = ahead(k), make(k)
        assert torch.equal(images, expected)
        assert captions == texts
        if k != 7:  # the same batch again shares its generator
            assert torch.equal(torch.rand(2, generator=g), torch.rand(2, generator=own))
    assert torch.equal(torch.get_rng_state(), before)


def test_beside_a_cpu_nothing_is_made_ahead() -> None:
    numbers: list[int] = []
    batches = Prefetcher(numbers.append, "cpu")
    for k in (2, 3, 3):
        batches(k)
    assert numbers == [2, 3, 3]
