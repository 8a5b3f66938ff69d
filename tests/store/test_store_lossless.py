"""Images: bit-exact when lossless, lossy ones refused by what they are and not by their name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from png_bomb import png_bomb

from sunbench.errors import UserError
from sunbench.store import decode_image, encode_png, image_files, read_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


@settings(deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_keeps_every_bit(image: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(decode_image(encode_png(image), "x"), image)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("PPM", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_kinds_are_read(kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(decode_image(encoded(kind, **options), "x"), PIXELS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded("JPEG", quality=100), "lossy JPEG"),
        (encoded("WEBP", quality=100), "lossy WEBP"),
        (encoded("WEBP", Image.fromarray(PIXELS).convert("RGBA"), exif=b"Exif\0\0"), "lossy WEBP"),
        (encoded("GIF"), "GIF"),
        (encoded("PNG", Image.fromarray(PIXELS).convert("RGBA")), "given mode RGBA"),
        (encoded("PNG", Image.fromarray(PIXELS).convert("L")), "given mode L"),
        (encoded("PNG")[:-30], "not a whole image"),
        (b"no image", "not a whole image"),
        (b"", "not a whole image"),
        (png_bomb(9_000), "9000 x 9000 pixels, expected at most"),
        (png_bomb(60_000), "not a whole image"),
    ],
)
def test_other_bytes_are_refused_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        decode_image(data, "shard-00000.parquet, image 3")
    assert said in str(caught.value)
    assert str(caught.value).startswith("shard-00000.parquet, image 3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (3, 4, 4)])
def test_only_uint8_rgb_is_stored(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        encode_png(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="given float32"):
        encode_png(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]


def test_folder_is_read_in_name_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "notes.md"):
        (tmp_path / name).write_bytes(encode_png(PIXELS))
    assert [name for name, _ in read_folder(tmp_path)] == ["a.png", "b.png"]


def test_jpeg_named_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("JPEG"))
    with pytest.raises(UserError, match=r"a\.png: given a lossy JPEG"):
        list(read_folder(tmp_path))


def test_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 images"):
        image_files(tmp_path)
    with pytest.raises(UserError, match="expected a folder"):
        image_files(tmp_path / "none")
