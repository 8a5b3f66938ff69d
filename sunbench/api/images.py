"""Sets of images from folders, arrays and Parquet files, read one at a time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sunbench.errors import UserError
from sunbench.store.files import open_file
from sunbench.store.lossless import UNREADABLE, open_image

Pixels = NDArray[np.uint8]

#: Formats that keep every pixel; a lossy one would be measured along with the method.
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
LOSSY = (".jpg", ".jpeg", ".webp", ".avif", ".gif")


class ImageSet(Protocol):
    """Images with a name each; prompts where they are known."""

    @property
    def name(self) -> str:
        """Where they are from, for messages."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The name of each image."""
        ...

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompts by name, where they are known."""
        ...

    def read(self, index: int) -> Pixels:
        """Image number ``index`` as uint8 (H, W, 3); UserError naming it when it is broken."""
        ...


class FolderImages:
    """The lossless image files below a folder, named by their paths without suffix."""

    def __init__(self, folder: Path) -> None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in LOSSLESS + LOSSY)
        lossy = [p for p in files if p.suffix.lower() in LOSSY]
        if lossy:
            raise UserError(
                f"{folder}: given {lossy[0].name} ({len(lossy)} lossy images), expected"
                f" {', '.join(LOSSLESS)}: lossy compression would be measured too"
            )
        if not files:
            raise UserError(f"{folder}: given no images, expected {', '.join(LOSSLESS)}")
        self.name, self.files, self.prompts = str(folder), files, dict[str, str]()
        self.ids = [p.relative_to(folder).with_suffix("").as_posix() for p in files]
        if len(set(self.ids)) < len(self.ids):
            twice = next(i for i in self.ids if self.ids.count(i) > 1)
            raise UserError(f"{folder}: given two images named {twice!r}, expected different names")

    def read(self, index: int) -> Pixels:
        """One image."""
        return read_pixels(self.files[index], str(self.files[index]))


class ArrayImages:
    """A uint8 array or tensor, (N, H, W, 3) or (N, 3, H, W), named by position."""

    def __init__(self, array: Any, name: str) -> None:
        pixels = np.asarray(array)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim != 4
            or 3 not in (pixels.shape[1], pixels.shape[3])
        ):
            raise UserError(
                f"{name}: given {pixels.dtype} of shape {pixels.shape}, expected uint8 (N, H, W, 3)"
                " or (N, 3, H, W)"
            )
        if len(pixels) == 0:
            raise UserError(f"{name}: given no images, expected at least one")
        last = pixels.shape[3] == 3
        self.pixels = pixels if last else pixels.transpose(0, 2, 3, 1)
        self.name, self.prompts = name, dict[str, str]()
        self.ids = [str(i) for i in range(len(pixels))]

    def read(self, index: int) -> Pixels:
        """One image."""
        return np.ascontiguousarray(self.pixels[index])


class ParquetImages:
    """Parquet files with an ``image`` column, as datasets writes them; ids from ``id`` if there.

    Rows are read a row group at a time; the group last read stays in memory.
    """

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self.name, self.prompts = name, dict[str, str]()
        self.groups: list[tuple[Path, int]] = []
        self.places: list[tuple[int, int]] = []
        self.ids: list[str] = []
        for file in files:
            self._index(file)
        if not self.ids:
            raise UserError(f"{name}: given no images, expected at least one row")
        if len(set(self.ids)) < len(self.ids):
            raise UserError(f"{name}: given an id twice, expected each once")
        self.held: tuple[int, list[Any]] = (-1, [])

    def _index(self, file: Path) -> None:
        try:
            with open_file(file) as data, pq.ParquetFile(data) as parquet:
                columns = parquet.schema_arrow.names
                if "image" not in columns:
                    raise UserError(f"{file}: given columns {columns}, expected one named image")
                for group in range(parquet.num_row_groups):
                    self._index_group(file, group, parquet, columns)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: expected a Parquet file: {error}") from None

    def _index_group(self, file: Path, group: int, parquet: Any, columns: list[str]) -> None:
        wanted = [c for c in ("id", "prompt_id", "seed", "prompt") if c in columns]
        rows = parquet.read_row_group(group, wanted).to_pylist() if wanted else []
        rows = rows or [{}] * parquet.metadata.row_group(group).num_rows
        for place, row in enumerate(rows):
            parts = [row["id"]] if "id" in row else [row[c] for c in wanted if c != "prompt"]
            label = "/".join(map(str, parts)) or str(len(self.ids))
            self.ids.append(label)
            self.places.append((len(self.groups), place))
            if isinstance(row.get("prompt"), str):
                self.prompts[label] = row["prompt"]
        self.groups.append((file, group))

    def read(self, index: int) -> Pixels:
        """One image."""
        group, place = self.places[index]
        if self.held[0] != group:
            file, number = self.groups[group]
            with open_file(file) as data, pq.ParquetFile(data) as parquet:
                self.held = (group, parquet.read_row_group(number, ["image"])["image"].to_pylist())
        value = self.held[1][place]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UserError(f"{self.name}: image {self.ids[index]} has no bytes in the file")
        return read_pixels(io.BytesIO(content), f"{self.name}, image {self.ids[index]}")


def read_pixels(file: Path | io.BytesIO, name: str) -> Pixels:
    """An image file as uint8 (H, W, 3); UserError for a broken, huge or lossy one."""
    try:
        with open_image(file) as image:
            if image.format in ("JPEG", "WEBP", "GIF", "AVIF"):
                raise UserError(f"{name}: given {image.format}, expected a lossless format")
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{name}: expected an image: {error}") from None


def open_images(images: Any, name: str) -> ImageSet:
    """The set of a folder, a Parquet file or folder of them, an array, or a set itself."""
    if isinstance(images, (str, Path)):
        return _open_path(Path(images))
    if hasattr(images, "read") and hasattr(images, "ids"):
        opened: ImageSet = images
        return opened
    return ArrayImages(images.cpu().numpy() if hasattr(images, "cpu") else images, name)


def _open_path(path: Path) -> ImageSet:
    if path.suffix == ".parquet":
        return ParquetImages([path], str(path))
    try:
        folder = path.is_dir()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not folder:
        raise UserError(f"given {path}, expected a folder of images or a .parquet file")
    files = sorted(path.rglob("*.parquet"))
    return ParquetImages(files, str(path)) if files else FolderImages(path)
