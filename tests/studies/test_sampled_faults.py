"""Faults of sampling: each changes images, none stays in the pipeline, an honest re-run is honest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.bench.planner import load_model, prompt_set
from sunbench.bench.request import request_cards
from sunbench.studies.sampled_faults import FAULTS, Asked, sampled_faults


@pytest.fixture
def asked(lab: Any) -> Asked:
    request = lab.request(images=10, seeds=(0, 1))
    (card,) = request_cards(request)
    loaded = load_model(card, request)
    method = registry.method("ddim", model=loaded.context)
    return Asked(loaded, prompt_set(card, request), method, 4, 3.0, (0, 1))


def test_every_fault_changes_images_and_leaves_the_pipeline_as_it_was(asked: Asked):
    honest = asked.sampled()
    planted = sampled_faults(asked)
    assert list(planted) == list(FAULTS)
    for name, images in planted.items():
        assert images.shape == honest.shape, name
        assert not torch.equal(images, honest), name
    assert torch.equal(asked.sampled(), honest)


def test_images_are_in_the_order_of_prompts_and_seeds(asked: Asked):
    """The first prompt alone gives the first images."""
    one = replace(asked, prompts=replace(asked.prompts, rows=asked.prompts.rows[:1]))
    gap = (one.sampled().int() - asked.sampled()[:2].int()).abs().max()
    assert gap <= 1  # batches differ
    other = replace(asked, seeds=(1,))
    assert (other.sampled().int() - asked.sampled()[1::2].int()).abs().max() <= 1


def test_an_honest_rerun_in_other_batches_differs_by_rounding_alone(asked: Asked):
    assert (asked.sampled(3).int() - asked.sampled().int()).abs().max() <= 1


def test_norms_over_the_batch_couple_images(asked: Asked):
    change, patch = FAULTS["norms over the batch"]
    with patch(asked.loaded.pipeline):
        alone, together = asked.sampled(1), asked.sampled(8)
    assert (alone.int() - together.int()).abs().max() > 1
    assert change(asked) == asked


def test_faults_that_do_not_apply_are_left_out(asked: Asked):
    plain = replace(asked, steps=1, guidance_scale=1.0)
    assert set(sampled_faults(plain)) == set(FAULTS) - {"half of the steps", "without guidance"}
