"""Masks, edges, and what was left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from png_bomb import png_bomb

from sunbench.bench.sources import _files, read_source
from sunbench.errors import UserError
from sunbench.metrics.psnr import psnr
from sunbench.metrics.unmasked_psnr import unmasked_psnr
from sunbench.sampling import edges
from sunbench.sampling.masks import NAMED, check_mask, mask


def test_an_edge_lies_on_both_sides_of_a_step():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[..., 5:] = 255
    edge_map = edges(image)
    assert edge_map.shape == (1, 3, 8, 8)
    assert edge_map.dtype == torch.float32
    assert edge_map[0, 0].sum(0).tolist() == [0, 0, 0, 0, 8, 8, 0, 0]
    assert torch.equal(edge_map[:, :1].expand_as(edge_map), edge_map)
    assert torch.equal(edges(image.mT), edge_map.mT)


@pytest.mark.parametrize(("step", "is_edge"), [(25, False), (27, True)])
def test_the_threshold_is_a_tenth_of_the_range(step: int, is_edge: bool):
    image = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    image[..., 4:] += step
    assert bool(edges(image).any()) is is_edge


def test_flat_pictures_and_borders_have_no_edges():
    assert not edges(torch.full((2, 3, 6, 6), 200, dtype=torch.uint8)).any()


@pytest.mark.parametrize("name", NAMED)
def test_named_masks(name: str):
    painted = mask(name, 64)
    assert set(painted.unique().tolist()) == {0.0, 1.0}
    assert float(painted.mean()) == (0.25 if name == "center" else 0.5)
    eighths = painted.reshape(8, 8, 8, 8).mean((1, 3))  # whole latents of 8 pixels
    assert set(eighths.unique().tolist()) == {0.0, 1.0}


def test_named_masks_lie_where_they_say():
    assert mask("left", 4)[0].tolist() == [1, 1, 0, 0]
    assert mask("right", 4)[0].tolist() == [0, 0, 1, 1]
    assert mask("top", 4)[:, 0].tolist() == [1, 1, 0, 0]
    assert mask("bottom", 4)[:, 0].tolist() == [0, 0, 1, 1]


def test_a_mask_from_a_picture(tmp_path: Path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, 6:] = 200
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    painted = mask(str(tmp_path / "mask.png"), 4)
    assert painted[2].tolist() == [0, 0, 0, 1]


def test_wrong_masks_are_told_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'center'"):
        mask("centre", 8)
    Image.new("L", (4, 4), 255).save(tmp_path / "all.png")
    with pytest.raises(UserError, match="paints all or nothing"):
        mask(str(tmp_path / "all.png"), 4)
    (tmp_path / "text.png").write_text("no")
    for read in (check_mask, lambda spec: mask(spec, 4)):  # before a run, and in it
        with pytest.raises(UserError, match="which is not an image"):
            read(str(tmp_path / "text.png"))
    (tmp_path / "bomb.png").write_bytes(png_bomb(60_000))
    with pytest.raises(UserError, match="which is not an image"):
        mask(str(tmp_path / "bomb.png"), 4)
    with pytest.raises(UserError, match="which is not an image"):
        read_source(tmp_path / "bomb.png", 4)
    with pytest.raises(UserError, match=r"bomb\.png, which is not an image"):
        _files(tmp_path, 3)


def test_unmasked_psnr_counts_only_what_stays():
    g = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (3, 3, 8, 8), generator=g, dtype=torch.uint8)
    painted = mask("left", 8)
    b = a.clone()
    b[..., :4] = 0  # only painted pixels differ
    assert unmasked_psnr(b, a, painted).tolist() == [100, 100, 100]
    b = torch.randint(0, 256, a.shape, generator=g, dtype=torch.uint8)
    torch.testing.assert_close(unmasked_psnr(b, a, painted), psnr(b[..., 4:], a[..., 4:]))
