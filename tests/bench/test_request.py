"""What cannot be meant is refused before anything starts, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from sunbench.bench import Request
from sunbench.errors import UserError

WRONG = [
    ({"methods": ()}, "no methods"),
    ({"models": ()}, "no models"),
    ({"steps": ()}, "no steps"),
    ({"methods": ("ddim", "ddim")}, "each once"),
    ({"steps": (4, 4)}, "each once"),
    ({"methods": ("dimm",)}, "did you mean 'ddim'"),
    ({"metrics": ("sssim",)}, "did you mean 'ssim'"),
    ({"metrics": ("fd", "fd[zoo-clip]")}, "each once"),
    ({"metrics": ("ssim[zoo-clip]",)}, "expected plain ssim"),
    ({"steps": (4, 0)}, "given 0 steps, expected 1 to 10000"),
    ({"steps": (-1,)}, "-1 steps"),
    ({"seeds": ()}, "no seeds"),
    ({"seeds": (1, 1)}, "each once"),
    ({"seeds": (-1,)}, "seed -1"),
    ({"images": 1}, "1 images"),
    ({"images": 7, "seeds": (0, 1)}, "a multiple of the 2 seeds"),
    ({"images": 2, "seeds": (0, 1)}, "1 prompt"),
    ({"batch": 0}, "batch 0"),
    ({"guidance_scale": 101.0}, "guidance_scale 101"),
    ({"guidance_scale": float("nan")}, "guidance_scale nan"),
    ({"resolution": 12}, "resolution 12"),
    ({"negatives": "some"}, "given negatives 'some', expected one of none, default, sampled"),
    ({"task": "draw"}, "task 'draw', expected one of text2image, image2image, "),
    ({"dtype": "float8"}, "dtype 'float8'"),
    ({"seeds": (0, 1_000_000)}, "given seed 1000000, expected 0 to 999999"),
    ({"seeds": (10**9,)}, "seed 1000000000"),
    ({"seeds": (10**20,)}, "seed 100000000000000000000"),
    ({"steps": (2**53 + 1,)}, "9007199254740993 steps"),
    ({"task": "image2image", "strength": 1e-9}, "strength 1e-09"),
    ({"resolution": 1_000_000}, "resolution 1000000"),
    ({"batch": 1_000_000}, "batch 1000000"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[w for _, w in WRONG])
def test_wrong_requests_are_refused_in_one_line(change: dict[str, Any], words: str):
    with pytest.raises(UserError) as caught:
        Request(**change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_are_images_over_seeds():
    assert Request(images=30, seeds=(0, 1, 2)).n_prompts == 10
