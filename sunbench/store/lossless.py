"""Lossless images: uint8 arrays to PNG bytes and back; anything lossy is refused.

JPEG artifacts move FID by more than the differences measured here, so no lossy byte gets in.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sunbench.errors import UserError
from sunbench.store.files import open_file, read_file

SUFFIXES = (".png", ".bmp", ".ppm", ".webp", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".avif")
_LOSSLESS = ("PNG", "BMP", "PPM")
#: Of one image: 8192 x 8192; a file of a few kilobytes can hold many more.
MOST_PIXELS = 2**26
#: What Pillow raises for files that are no images, broken, or bombs.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@contextmanager
def open_image(source: Path | str | IO[bytes]) -> Iterator[Image.Image]:
    """An image whose pixels are not read yet; one of UNREADABLE for none, or one of too many."""
    with ExitStack() as stack:
        if isinstance(source, (str, Path)):
            source = stack.enter_context(open_file(Path(source)))
        image = stack.enter_context(Image.open(source))
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels, expected at most {MOST_PIXELS:,}"
            )
        yield image


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of an image (H, W, 3) uint8; ValueError for any other shape or dtype."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"given {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _webp_is_lossless(data: bytes) -> bool:
    """Walk the RIFF chunks of a WebP file: VP8L is lossless, VP8 and animations are not."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"VP8L", b"VP8 ", b"ANMF"):
            return name == b"VP8L"
        at += 8 + size + size % 2
    return False


def _is_lossless(data: bytes, kind: str | None) -> bool:
    return kind in _LOSSLESS or (kind == "WEBP" and _webp_is_lossless(data))


def _described(kind: str | None) -> str:
    return f"lossy {kind}" if kind in ("WEBP", "JPEG") else str(kind)


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8 in lossless 8-bit RGB bytes; UserError naming it otherwise."""
    try:
        with open_image(io.BytesIO(data)) as image:
            if not _is_lossless(data, image.format):
                raise UserError(
                    f"{name}: given a {_described(image.format)} image, expected a lossless "
                    "one (PNG, BMP, PPM, lossless WebP): lossy images change the metrics"
                )
            if image.mode != "RGB":
                raise UserError(f"{name}: given mode {image.mode}, expected 8-bit RGB")
            return np.array(image)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{name} is not a whole image ({error})") from error


def image_files(folder: Path) -> list[Path]:
    """The images in a folder by name, lossy ones included so that reading can refuse them."""
    if not folder.is_dir():
        raise UserError(f"given {folder}, expected a folder of images")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{folder} holds 0 images; expected PNG files")
    return files


def read_folder(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(file name, image) of each image in a folder, in name order, one in memory at a time."""
    for file in image_files(folder):
        yield file.name, decode_image(read_file(file), str(file))
