"""Composing pictures, from sprites made up here: discs of random colours."""

from __future__ import annotations

import pytest
import torch

from sunbench.zoo.data import (
    EXTENT,
    OFFSET,
    PATCH,
    PLACED,
    Scene,
    Sprites,
    batches,
    colours,
    recipe,
)

THINGS = 4  # the first things alone; scenes here use no others


def _disc(extent: int) -> torch.Tensor:
    axis = torch.arange(64) - 31.5
    return ((axis[:, None] ** 2 + axis[None] ** 2) <= (extent / 2) ** 2).to(torch.uint8)


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    g = torch.Generator().manual_seed(0)
    masks = torch.stack([_disc(e) for e in EXTENT])[None, :, None]
    names = [s["name"] for s in recipe()["styles"]] + ["line/light"]
    alpha = masks * 255
    return Sprites(
        {
            name: torch.cat(
                [
                    masks
                    * torch.randint(0, 256, (THINGS, 3, 3, 64, 64), generator=g, dtype=torch.uint8),
                    alpha.expand(THINGS, 3, 1, 64, 64),
                ],
                2,
            )
            for name in names
        }
    )


def scenes_of(n: int) -> list[Scene]:
    return [Scene(i % THINGS, i % 3, i % len(colours()), i // 3 % 4) for i in range(n)]


def compose(sprites: Sprites, n: int, style: int = 0) -> torch.Tensor:
    return sprites.compose(scenes_of(n), torch.full((n,), style))


def test_shapes_and_range(sprites: Sprites):
    pictures = compose(sprites, 40)
    assert pictures.shape == (40, 3, 64, 64)
    assert pictures.dtype == torch.float32
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1


def test_a_picture_is_its_scene_and_style_alone(sprites: Sprites):
    together = compose(sprites, 20)
    alone = torch.cat([sprites.compose([s], torch.zeros(1).long()) for s in scenes_of(20)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, compose(sprites, 20, style=1))


def test_corners_are_the_ground(sprites: Sprites):
    """Subjects never reach a corner, so the colour of the ground can be measured there."""
    pictures = compose(sprites, 120)
    for picture, scene in zip(pictures, scenes_of(120), strict=True):
        ground = torch.tensor(colours()[scene.colour][1]) / 255
        if scene.ground == 0:
            for y, x in ((0, 0), (0, 63), (63, 0), (63, 63)):
                torch.testing.assert_close(picture[:, y, x], ground)


def test_patterns_have_two_colours_and_plain_grounds_one():
    empty = {
        s["name"]: torch.zeros(THINGS, 3, 4, 64, 64, dtype=torch.uint8) for s in recipe()["styles"]
    }
    for colour in range(len(colours())):
        for ground, count in enumerate((1, 2, 2, 2)):
            scene = Scene(0, 0, colour, ground)
            picture = Sprites(empty).compose([scene], torch.zeros(1, dtype=torch.long))[0]
            assert len(picture.flatten(1).T.unique(dim=0)) == count


def test_larger_subjects_cover_more(sprites: Sprites):
    def covered(size: int) -> int:
        picture = sprites.compose([Scene(0, size, 0, 0)], torch.zeros(1, dtype=torch.long))[0]
        ground = torch.tensor(colours()[0][1])[:, None, None] / 255
        return int(((picture - ground).abs().sum(0) > 1e-3).sum())

    areas = [covered(size) for size in range(3)]
    assert areas == sorted(set(areas))


def drawn_box(sprites: Sprites, scene: Scene) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is drawn."""
    picture = sprites.compose([scene], torch.zeros(1, dtype=torch.long))[0]
    ground = torch.tensor(colours()[scene.colour][1])[:, None, None] / 255
    drawn = (picture - ground).abs().sum(0) > 1e-3
    rows, columns = drawn.any(1).nonzero()[:, 0], drawn.any(0).nonzero()[:, 0]
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def test_subjects_stand_where_the_caption_says_and_stay_whole(sprites: Sprites):
    for size, (extent, places) in enumerate(zip(EXTENT, PLACED, strict=True)):
        first = drawn_box(sprites, Scene(0, size, 10, 0))
        assert max(first[2:]) <= extent
        for place in range(places):
            down, right = (PATCH * k for k in OFFSET[place])
            top, left, height, width = drawn_box(sprites, Scene(0, size, 10, 0, place))
            assert (top, left) == (first[0] + down, first[1] + right)
            assert (height, width) == first[2:]


def test_line_art_is_light_on_dark_grounds(sprites: Sprites):
    names = [s["name"] for s in recipe()["styles"]]
    line = names.index("line")
    luma = [0.299 * r + 0.587 * g + 0.114 * b for _, (r, g, b) in colours()]
    dark = [i for i, y in enumerate(luma) if y < 0.45 * 255]
    assert 0 < len(dark) < len(colours())
    other = Sprites(sprites.tensors | {"line/light": sprites.tensors["line"] // 2})
    for colour in range(len(colours())):
        pictures = [
            s.compose([Scene(0, 1, colour, 0)], torch.tensor([line])) for s in (sprites, other)
        ]
        assert torch.equal(*pictures) == (colour not in dark)


def test_batch_k_depends_on_seed_and_k_alone(sprites: Sprites):
    pool = tuple(scenes_of(30))
    stream = batches(sprites, [0, 2], pool, 5, seed=3, start=0)
    first = [next(stream) for _ in range(4)]
    resumed = next(batches(sprites, [0, 2], pool, 5, seed=3, start=3))
    assert all(torch.equal(a, b) for a, b in zip(first[3], resumed, strict=True))
    assert not torch.equal(first[0][0], first[1][0])
    other = next(batches(sprites, [0, 2], pool, 5, seed=4, start=0))
    assert not torch.equal(first[0][0], other[0])
    assert {int(s) for _, _, styles in first for s in styles} <= {0, 2}


def test_batches_draw_from_the_pool_alone(sprites: Sprites):
    pool = tuple(scenes_of(5))
    _, index, _ = next(batches(sprites, [1], pool, 50, seed=0, start=0))
    assert {Scene(*row) for row in index.tolist()} == set(pool)
