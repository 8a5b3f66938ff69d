"""Random adapters and fresh tiny pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench.methods.sun import SunAdapter


def random_adapter(unet: Any, seed: int = 5, **settings: Any) -> SunAdapter:
    """Random K', V', alpha and beta, so that no term of the formula is missed."""
    adapter = SunAdapter.for_unet(unet, init="random", seed=seed, **settings)
    g = torch.Generator().manual_seed(seed)
    for name, p in adapter.named_parameters():
        if not name.endswith("weight"):
            p.data = 0.5 * torch.randn(p.shape, generator=g)
    return adapter


@pytest.fixture(scope="session")
def randomly() -> Callable[..., SunAdapter]:
    return random_adapter


@pytest.fixture
def pipe(tiny: ModuleType, tmp_path: Path) -> Any:
    """One that a test may change."""
    return tiny.pipeline(tmp_path / "words")
