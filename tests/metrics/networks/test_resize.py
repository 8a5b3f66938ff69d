"""The matrix resize against Pillow and clean-fid, on whole tensors."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sunbench.metrics.networks.resize import bicubic_matrix, clean_resize, pillow_resize

SIZES = [
    ((64, 64), (299, 299)),
    ((512, 512), (299, 299)),
    ((96, 70), (40, 91)),
    ((33, 57), (57, 33)),
]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


@pytest.mark.oracle
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_clean_resize_is_pillow_in_float(old, new):
    image = noise(*old)
    channels = [
        np.asarray(
            Image.fromarray(image[..., c].astype(np.float32)).resize(new[::-1], Image.BICUBIC)
        )
        for c in range(3)
    ]
    ours = clean_resize(tensor(image), *new)[0].numpy()
    np.testing.assert_allclose(ours, np.stack(channels).clip(0, 255), atol=2e-4)


@pytest.mark.oracle
def test_clean_resize_is_clean_fids():
    from cleanfid.resize import build_resizer

    image = noise(128, 128)
    with warnings.catch_warnings():  # Pillow deprecates fromarray's mode, which clean-fid passes
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = build_resizer("clean")(image)
    ours = clean_resize(tensor(image), 299, 299)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.oracle
@pytest.mark.parametrize(("old", "new"), [*SIZES[:2], ((70, 90), (32, 41)), ((33, 57), (57, 33))])
def test_pillow_resize_is_pillow_in_8_bits(old, new):
    image = noise(*old)
    theirs = np.asarray(Image.fromarray(image).resize(new[::-1], Image.BICUBIC)).astype(int)
    ours = pillow_resize(tensor(image), *new)[0].permute(1, 2, 0).numpy().astype(int)
    wrong = np.abs(ours - theirs)
    assert wrong.max() <= 1  # Pillow's weights are 22-bit integers
    assert (wrong > 0).mean() < 1e-4


@settings(max_examples=50)
@given(st.integers(1, 80), st.integers(1, 80))
def test_rows_sum_to_one_so_flat_pictures_stay_flat(size, new):
    matrix = bicubic_matrix(size, new)
    assert matrix.shape == (new, size)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-12)


def test_same_size_is_the_identity():
    np.testing.assert_array_equal(bicubic_matrix(17, 17), np.eye(17))
    image = tensor(noise(20, 20))
    assert torch.equal(pillow_resize(image, 20, 20), image)
    assert torch.equal(clean_resize(image, 20, 20), image.float())
