"""Images of captions are cells of the runner: their noise is the caption's, and they are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sunbench.errors import UserError
from sunbench.models import find_model, load
from sunbench.prompts import Prompt
from sunbench.studies.sampled import sampled_images

CAPTIONS = [Prompt(text, text) for text in ("a red boat", "a teal cat", "a drum")]


def test_images_are_kept_and_belong_to_their_captions(lab: Any):
    loaded = load(find_model(str(lab.world.card)))
    images = sampled_images(loaded, CAPTIONS, 2, 3.0, "ddim")
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.uint8
    stored = list((lab.cache / "studies").rglob("shard-*.parquet"))
    times = [f.stat().st_mtime_ns for f in stored]
    assert torch.equal(sampled_images(loaded, CAPTIONS, 2, 3.0, "ddim"), images)
    assert [f.stat().st_mtime_ns for f in stored] == times
    turned = sampled_images(loaded, CAPTIONS[::-1], 2, 3.0, "ddim").flip(0)
    assert int((turned.int() - images.int()).abs().max()) <= 1
    assert not torch.equal(sampled_images(loaded, CAPTIONS, 2, 1.0, "ddim"), images)


def test_the_seeds_of_a_caption_stand_together(lab: Any):
    loaded = load(find_model(str(lab.world.card)))
    images = sampled_images(loaded, CAPTIONS, 2, 3.0, "ddim", seeds=(0, 7))
    for at, seed in enumerate((0, 7)):
        alone = sampled_images(loaded, CAPTIONS, 2, 3.0, "ddim", seeds=(seed,))
        assert int((images[at::2].int() - alone.int()).abs().max()) <= 1
    assert not torch.equal(images[::2], images[1::2])


def test_a_method_that_cannot_run_says_why(lab: Any):
    loaded = load(find_model(str(lab.world.card)))
    with pytest.raises(UserError, match="1001 steps"):
        sampled_images(loaded, CAPTIONS, 1001, 3.0, "ddim")
