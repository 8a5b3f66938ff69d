"""Images of scenes: what a scene says shows, and what it leaves open varies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sunbench.zoo.world.captions import (
    Scene,
    colors,
    drawings,
    held_out_prompts,
    recipe,
    scenes,
)
from sunbench.zoo.world.images import (
    EXTENTS,
    RESOLUTION,
    ROTATIONS,
    Sprites,
    Variation,
    backgrounds,
    batch_maker,
    dark_backgrounds,
    sample_batch,
)
from sunbench.zoo.world.real import Quantized, RealFeatures, real_images


@pytest.fixture(scope="module")
def squares() -> Sprites:
    """Opaque squares in place of art: white in dark ink, black in light ink."""
    shape = (len(recipe()["styles"]), len(drawings()), len(EXTENTS), len(ROTATIONS), 4, 64, 64)
    dark = torch.zeros(1, 1, len(EXTENTS), 1, 4, 64, 64, dtype=torch.uint8)
    for i, extent in enumerate(EXTENTS):
        a = (RESOLUTION - extent) // 2
        dark[:, :, i, :, :, a : a + extent, a : a + extent] = 255
    light = dark.clone()
    light[..., :3, :, :] = 0
    return Sprites(dark.expand(shape), light.expand(shape))


def still(n: int) -> Variation:
    """No choice made: the named colors as they are, the subject in its place."""
    v = Variation.sample(n, torch.Generator().manual_seed(0))
    return replace(
        v,
        jitter=torch.zeros(n, 2),
        shade=torch.zeros(n, 3),
        light=torch.zeros(n, 2),
        phase=torch.zeros(n, 2, dtype=torch.long),
    )


def columns_of_subject(image: Tensor) -> tuple[int, int]:
    inside = (image == image.max()).all(0).any(0).nonzero()
    return int(inside.min()), int(inside.max())


def test_a_plain_background_is_the_named_color() -> None:
    color = torch.arange(len(colors()))
    pictures = backgrounds(color, torch.zeros_like(color), still(len(color)))
    wanted = torch.tensor([c for _, c in colors()]) / 255
    torch.testing.assert_close(pictures[:, :, 5, 9], wanted)
    assert pictures.flatten(2).std(2).max() == 0


@pytest.mark.parametrize("pattern", [1, 2, 3])
def test_a_pattern_has_two_colors_and_a_phase(pattern: int) -> None:
    v = still(2)
    moved = replace(v, phase=torch.tensor([[0, 0], [3, 5]]), slant=torch.tensor([True, True]))
    pictures = backgrounds(torch.tensor([4, 4]), torch.tensor([pattern, pattern]), moved)
    assert len(pictures[0].flatten(1).unique(dim=1).T) == 2
    assert not torch.equal(pictures[0], pictures[1])


def test_a_subject_stands_where_its_scene_says(squares: Sprites) -> None:
    rows = torch.tensor([Scene(0, 0, place, 2, 0).row for place in (0, 1, 2)])
    images = squares.compose(rows, torch.zeros(3, dtype=torch.long), still(3))
    spans = [columns_of_subject(image) for image in images]
    assert spans == [(16, 47), (2, 33), (30, 61)]


def test_line_art_takes_light_ink_on_dark_backgrounds(squares: Sprites) -> None:
    rows = torch.tensor([Scene(0, 2, 0, c, 0).row for c in range(len(colors()))])
    images = squares.compose(rows, torch.zeros(len(rows), dtype=torch.long), still(len(rows)))
    center = images[:, :, 32, 32].mean(1)
    assert torch.equal(center, (~dark_backgrounds()).float())


def test_what_a_scene_leaves_open_varies_and_stays_in_range(squares: Sprites) -> None:
    rows = torch.tensor([Scene(0, 0, 0, 3, 1).row] * 16)
    v = Variation.sample(16, torch.Generator().manual_seed(1))
    images = squares.compose(rows, torch.zeros(16, dtype=torch.long), v)
    assert images.min() >= 0
    assert images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 16


def test_batches_depend_on_their_number_alone(squares: Sprites) -> None:
    batches = batch_maker(squares, [0, 3], 4, seed=2)
    first = batches(5)
    again = sample_batch(squares, [0, 3], scenes()[0], 4, 2 * 1_000_003 + 5)
    assert torch.equal(first.images, again.images)
    assert set(first.styles.tolist()) <= {0, 3}
    assert not torch.equal(batches(6).images, first.images)


def test_a_real_image_belongs_to_its_prompt(squares: Sprites) -> None:
    some = held_out_prompts()[:3]
    images = real_images(squares, [0, 1], some)
    assert images.shape == (3, 3, 64, 64)
    assert torch.equal(images[1:2], real_images(squares, [0, 1], some[1:2]))


def test_quantized_features_are_within_half_a_step(tmp_path: Path) -> None:
    features = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    coded = Quantized.of(features)
    RealFeatures(coded, torch.arange(50.0)).save(tmp_path / "features.safetensors")
    back = RealFeatures.load(tmp_path / "features.safetensors")
    assert back.gradients.tolist() == list(range(50))
    assert ((back.features.values - features).abs() <= coded.step * 0.5001).all()
