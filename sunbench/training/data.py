"""Images and texts to train on: the zoo's, a folder's, a Parquet file's, a hub data set's."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor

from sunbench.errors import NotAvailable, UserError
from sunbench.prompts import hub
from sunbench.prompts.files import read_prompt_file
from sunbench.prompts.records import prompt_column
from sunbench.store.files import read_text
from sunbench.store.lossless import UNREADABLE, open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
SPRITES = "sprites.safetensors"
#: Where `sunbench zoo build` puts what the zoo's images are composed of.
ZOO_BUILD = Path("build/zoo") / SPRITES
#: Images of the zoo that are composed once, to see that its art is whole.
PROBED = 256
Examples = tuple[Tensor, list[str]]


class TrainingImages(Protocol):
    """Training images with captions."""

    @property
    def name(self) -> str:
        """In words, without the place on this machine."""
        ...

    def draw(self, n: int, generator: torch.Generator) -> Examples:
        """n images (n, 3, H, W) in -1..1 and their captions, by the generator alone."""
        ...


# ------------------------------------------------------------------------------ images


def flat(image: Image.Image) -> Image.Image:
    """Upright and RGB; what is transparent becomes white."""
    image = ImageOps.exif_transpose(image)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def squared(image: Image.Image, size: int) -> Tensor:
    """Shortest side resized to ``size``, then its center (section 4.1): (3, size, size), -1..1."""
    fitted = ImageOps.fit(flat(image), (size, size), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(fitted, np.float32).copy())
    return values.permute(2, 0, 1) / 127.5 - 1


def _opened(value: Any) -> Image.Image:
    """An image from a path, from bytes, or from what `datasets` makes of either."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, dict):
        value = value["bytes"] or value["path"]
    source = io.BytesIO(value) if isinstance(value, bytes) else value
    with open_image(source) as image:
        image.load()
    return image


@dataclass(frozen=True)
class Listed:
    """Images in rows; get: row -> (what the image is opened from, caption)."""

    name: str
    count: int
    size: int
    get: Callable[[int], tuple[Any, str]]

    def draw(self, n: int, generator: torch.Generator) -> Examples:
        """n rows, with replacement."""
        rows = torch.randint(self.count, (n,), generator=generator).tolist()
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(self._row, rows))
        return torch.stack([image for image, _ in images]), [caption for _, caption in images]

    def _row(self, row: int) -> tuple[Tensor, str]:
        source, caption = self.get(row)
        try:
            return squared(_opened(source), self.size), caption
        except UNREADABLE as error:
            named = f" ({source.name})" if isinstance(source, Path) else ""
            raise UserError(
                f"{self.name}: image {row + 1}{named} cannot be read ({error})"
            ) from error


# ------------------------------------------------------------------------------ folders


def _beside(folder: Path) -> list[tuple[Path, str]]:
    """Images with a .txt of the same name."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UserError(f"given training folder {folder}, which holds no images")
    bare = [p for p in files if not p.with_suffix(".txt").is_file()]
    if bare:
        raise UserError(
            f"given training folder {folder}, in which {len(bare)} of {len(files)} images have no"
            f" caption (such as {bare[0].name}); expected metadata.csv, metadata.jsonl or a .txt"
            " beside each"
        )
    return [(p, _caption(p.with_suffix(".txt"))) for p in files]


def _caption(path: Path) -> str:
    text = " ".join(read_text(path).split())
    if not text:
        raise UserError(f"{path} is empty, expected a caption")
    return text


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a table's file name is that of a file below the table's folder."""
    place = PurePath(name)
    try:
        return not place.is_absolute() and ".." not in place.parts and (folder / name).is_file()
    except ValueError:  # a name with a zero byte
        return False


def _from_table(path: Path) -> list[tuple[Path, str]]:
    """Images and captions of metadata.csv or metadata.jsonl (column ``file_name``)."""
    table, column = read_prompt_file(path, None)
    if "file_name" not in table.columns:
        raise UserError(f"{path}: given columns {', '.join(table.columns)}, expected file_name")
    if column == "file_name":
        raise UserError(f"{path}: given no captions, expected a column named text or caption")
    rows = []
    for record in table.records:
        name, caption = record.values.get("file_name"), record.values.get(column)
        if not isinstance(name, str) or not _is_inside(path.parent, name):
            raise UserError(
                f"{record.place}: given file_name {name!r}, expected an image below the folder"
            )
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"{record.place}: given {column} {caption!r}, expected a caption")
        rows.append((path.parent / name, caption.strip()))
    return rows


def from_folder(folder: Path, size: int) -> Listed:
    """Images captioned by metadata.csv, metadata.jsonl or a .txt beside each."""
    tables = [p for n in ("metadata.csv", "metadata.jsonl") if (p := folder / n).is_file()]
    rows = _from_table(tables[0]) if tables else _beside(folder)
    return Listed(f"folder {folder.resolve().name}", len(rows), size, rows.__getitem__)


# ------------------------------------------------------------------------------ tables


def _image_column(name: str, columns: Sequence[str]) -> str:
    column = next((c for c in IMAGE_COLUMNS if c in columns), None)
    if column is None:
        expected = ", ".join(IMAGE_COLUMNS)
        raise UserError(f"{name}: given columns {', '.join(columns)}; expected one of {expected}")
    return column


def _load(name: str, path: str, split: str, **where: Any) -> Any:
    """A data set by `datasets`; any failure at this border becomes one line."""
    import datasets

    try:
        return datasets.load_dataset(path, split=split, **where)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise NotAvailable(f"training data {name} cannot be read here ({reason})") from error


def _rows(name: str, data: Any, size: int) -> Listed:
    columns = list(data.column_names)
    image = _image_column(name, columns)
    text = prompt_column(name, [c for c in columns if c != image], None)
    data = _undecoded(data, image)
    if not len(data):
        raise UserError(f"training data {name} holds 0 images, expected at least one")

    def get(row: int) -> tuple[Any, str]:
        values = data[row]
        caption = values[text][0] if isinstance(values[text], list) else values[text]
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"{name} row {row + 1}: given {text} {caption!r}, expected a caption")
        return values[image], caption.strip()

    return Listed(name, len(data), size, get)


def _undecoded(data: Any, column: str) -> Any:
    """The data set with its images as bytes, so that `_opened` alone decodes them."""
    import datasets

    if isinstance(data.features[column], datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    return data


def from_parquet(path: Path, size: int) -> Listed:
    """Rows of a Parquet file: a column of images (bytes), a column of captions."""
    return _rows(path.name, _load(path.name, "parquet", "train", data_files=str(path)), size)


def from_hub(place: hub.HubSet, size: int) -> Listed:
    """Rows of a hub data set ``owner/name[@revision][:split]``."""
    data = _load(place.name, place.path, place.split, revision=place.revision)
    return _rows(place.name, data, size)


# ------------------------------------------------------------------------------ zoo


@dataclass(frozen=True)
class ZooImages:
    """Emoji scenes of the zoo's training captions, composed on the fly in some styles."""

    sprites: Any
    styles: tuple[int, ...]

    @property
    def name(self) -> str:
        """With the styles' places in the recipe."""
        return f"zoo, styles {', '.join(map(str, self.styles))}"

    def draw(self, n: int, generator: torch.Generator) -> Examples:
        """n scenes of the training captions."""
        from sunbench.zoo.world.captions import sample_captions, scenes
        from sunbench.zoo.world.images import sample_batch

        seed = int(torch.randint(2**62, (1,), generator=generator))
        batch = sample_batch(self.sprites, list(self.styles), scenes()[0], n, seed)
        return batch.images, sample_captions(batch.scenes, batch.styles, generator)


def from_zoo(file: Path, model: str) -> ZooImages:
    """The images that a zoo model was trained on; every style for a model of another name."""
    from sunbench.zoo.world.captions import recipe, style_indices
    from sunbench.zoo.world.images import Sprites

    if not file.is_file():
        raise UserError(f"{file} is missing: `sunbench zoo build --stages sprites`, or --data")
    own = {m["name"]: style_indices(m) for m in recipe()["models"]}
    styles = own.get(model, range(len(recipe()["styles"])))
    return ZooImages(Sprites.load(file), tuple(styles))


@contextmanager
def _zoo_art(file: Path) -> Iterator[None]:
    """UserError where sprites are not those that the zoo's recipe composes images of."""
    try:
        yield
    except (LookupError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(
            f"{file}: given art of another recipe ({reason}), expected what"
            " `sunbench zoo build --stages sprites` of this version draws"
        ) from error


def open_training_images(spec: str | None, model: str, size: int, *, zoo: bool) -> TrainingImages:
    """Training data by its spec; None is the zoo's own for a zoo model.

    spec: a folder, a .parquet file, ``owner/name[@revision][:split]``, or a build folder of the zoo
    or its sprites.safetensors. size: pixels per side.
    """
    if spec is None and not zoo:
        raise UserError("given no --data, expected a folder, a .parquet file or owner/name")
    path = Path(spec) if spec is not None else ZOO_BUILD
    sprites = path / SPRITES if path.is_dir() else path
    if spec is None or (sprites.name == SPRITES and sprites.is_file()):
        with _zoo_art(sprites):
            images = from_zoo(sprites, model)
            images.draw(PROBED, torch.Generator())
        return images
    if path.is_dir():
        return from_folder(path, size)
    if path.suffix == ".parquet" and path.is_file():
        return from_parquet(path, size)
    hub_set = hub.parse(str(spec))
    if hub_set is None or path.suffix in (".parquet", ".safetensors"):
        raise UserError(f"given --data {spec!r}, expected a folder, a .parquet file or owner/name")
    return from_hub(hub_set, size)
