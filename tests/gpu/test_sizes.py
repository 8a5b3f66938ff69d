"""A training's update and a sampled batch at Stable Diffusion 1.5's size, on a CUDA device.

What the device test calls is tried on the tiny pipeline everywhere.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from sizes import METHODS, check_update_and_samples, with_words

from sunbench.paper.timing import random_pipeline


@pytest.mark.parametrize("method", METHODS)
def test_an_update_and_samples_of_the_tiny_pipeline(method: str, tiny: ModuleType, tmp_path: Path):
    pipeline = with_words(tiny.pipeline(tmp_path / "tiny"), tmp_path / "words")
    check_update_and_samples(method, pipeline, tmp_path / "out", "float32")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_an_update_and_samples_of_stable_diffusions_size(method: str, tmp_path: Path):
    """Random weights in float32, autocast to bfloat16."""
    pipeline = with_words(random_pipeline("sd1", "cuda", torch.float32), tmp_path / "words")
    assert sum(p.numel() for p in pipeline.unet.parameters()) == 859_520_964
    check_update_and_samples(method, pipeline, tmp_path / "out", "bfloat16")
