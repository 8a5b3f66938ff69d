"""The self-test finds what it plants, and stays quiet over honest re-runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.errors import UserError
from sunbench.metrics import find_metric
from sunbench.studies.faults import FAULTS, Material, _one_ground, honest_rerun
from sunbench.studies.selftest import SelfTest, selftest
from sunbench.zoo.world.captions import colors
from sunbench.zoo.world.images import Variation, backgrounds

N = 64


class Pixels:
    """A feature network of coarse pixels; a prompt's embedding is that of its own image."""

    name, protocol, key, dim = "zoo-clip", "coarse pixels", "k" * 20, 12

    def __init__(self, shown: torch.Tensor) -> None:
        self.shown = self.embed(shown)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255 - 0.5, 2)
        return small.flatten(1)

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        return self.shown[[int(t) for t in texts]]

    def layers(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images.float() / 255 - 0.5]


def smooth(seed: int) -> torch.Tensor:
    coarse = torch.rand((N, 3, 5, 5), generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1) * 255).to(
        torch.uint8
    )


@pytest.fixture(scope="module")
def material() -> Material:
    """Reference images, an honest method a little away from them, and other images as floor."""
    reference = smooth(0)
    noise = torch.randint(-4, 5, reference.shape, generator=torch.Generator().manual_seed(9))
    images = (reference.int() + noise).clamp(0, 255).to(torch.uint8)
    return Material(reference, images, smooth(1), {"another model": smooth(2)}, np.arange(N))


@pytest.fixture(scope="module")
def result(material: Material) -> SelfTest:
    names = ("ssim", "psnr", "perceptual[zoo-clip]", "fd[zoo-clip]", "kid[zoo-clip]")
    choices = tuple(find_metric(n) for n in (*names, "cos[zoo-clip]", "clip_score[zoo-clip]"))
    extractors = FeatureExtractors(choices, {"zoo-clip": Pixels(material.reference)})
    return selftest(material, [str(i) for i in range(N)], extractors, reruns=5)


def test_every_fault_is_caught_and_no_honest_rerun_is(result: SelfTest):
    assert result.uncaught() == []
    assert set(result.false_alarms.values()) == {0.0}


def test_faults_are_caught_by_what_can_see_them(result: SelfTest):
    caught = {(a.fault, a.metric): a.caught for a in result.alarms}
    for fault in (*FAULTS, "another model"):
        assert caught[fault, "psnr"] or fault == "some noise", fault
    assert caught["prompts swapped", "clip_score[zoo-clip]"]
    assert not caught["prompts swapped", "fd[zoo-clip]"]  # the set is the same
    assert caught["black", "fd[zoo-clip]"]


def test_the_matrix_names_every_fault_and_metric(result: SelfTest):
    text = result.markdown()
    assert text.splitlines()[0].count("|") == 9
    for fault in (*FAULTS, "another model", "false alarms, 5 honest re-runs"):
        assert fault in text
    assert "Every fault is caught." in text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_images_and_nothing_of_their_form(material: Material, fault: str):
    before = material.images.clone()
    planted = FAULTS[fault](material)
    assert planted.dtype == torch.uint8
    assert planted.shape == before.shape
    assert not torch.equal(planted, before)
    assert torch.equal(material.images, before)


def test_a_ground_changes_its_color_as_a_whole_and_keeps_its_light():
    g = torch.Generator().manual_seed(0)
    color = torch.arange(len(colors())).repeat(8)
    plain = backgrounds(color, torch.zeros_like(color), Variation.sample(len(color), g))
    images = (plain * 255).round().to(torch.uint8)
    images[:, :, 24:40, 24:40] = torch.tensor([0, 255, 0], dtype=torch.uint8).view(3, 1, 1)
    planted = _one_ground(images)
    assert torch.equal(planted[:, :, 24:40, 24:40], images[:, :, 24:40, 24:40])
    ground = (planted != images).any(1).float().mean((1, 2)) / (1 - (16 / 64) ** 2)
    assert ground.mean() > 0.97
    assert planted[:, 0, :16].float().std((1, 2)).median() > 4  # red, under the light


def test_an_honest_rerun_moves_few_pixels_by_one_level(material: Material):
    gap = (honest_rerun(material, 0).int() - material.images.int()).abs()
    assert gap.max() == 1
    assert 0 < (gap > 0).float().mean() < 2e-3


def test_cells_of_another_size_are_refused(material: Material):
    with pytest.raises(UserError, match="floor: given images of"):
        replace(material, floor=material.floor[:4])
