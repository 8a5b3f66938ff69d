"""Where the weights of a trained method are.

Weights are those that the user names, else the zoo's (for the model itself, then for its base),
else those in the hub's cache. Only what the user names is ever fetched: a benchmark must not start
downloads that nobody asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache

from sunbench import zoo
from sunbench.errors import NotAvailable, UserError
from sunbench.models.catalogue import Place, place
from sunbench.models.checkpoint import Shape, architecture_of, pick_weights
from sunbench.models.hub import fetch_file, fetch_folder
from sunbench.store.tensors import (
    check_finite,
    check_floating,
    load_tensors,
    read_header,
    refuse_pickle,
)

#: Files of a w-conditioned U-Net in a repository, or of several in folders named by their steps.
STUDENT_FILES = re.compile(
    r"(\d+/)?(unet/)?(config\.json|diffusion_pytorch_model[^.]*\.safetensors)"
)


def shape_of(unet: Any) -> Shape:
    """The two numbers that tell the families of U-Nets apart."""
    width = unet.config.cross_attention_dim
    return Shape(width if isinstance(width, int) else max(width), unet.config.in_channels)


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself."""
    return read_header(path).metadata


def unet_folder(path: Path) -> Path:
    """The U-Net's own folder, inside a pipeline's or given by itself."""
    return path / "unet" if (path / "unet" / "config.json").is_file() else path


def weight_files(path: Path) -> list[Path]:
    """Weight files of a student: a diffusers folder or one .safetensors file."""
    if not path.is_dir():
        refuse_pickle(str(path))
        return [path]
    folder = unet_folder(path)
    names = [file.name for file in folder.iterdir()]
    return [folder / name for name in pick_weights(names, "", None, str(folder))]


def check_values(path: Path) -> None:
    """Raise UserError unless a file of weights holds finite floating point numbers.

    The digits of a file of weight deltas (``deltas``) are int16. Each version of a file is read
    once per process.
    """
    about = path.stat()
    _check_values(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _check_values(path: Path, size: int, mtime_ns: int) -> None:
    header = read_header(path)
    digits = {name for name in header if f"{name}.scale" in header and header.dtypes[name] == "I16"}
    check_floating(path, header, set(header) - digits)
    check_finite(path, load_tensors(path))


def trained_on(path: Path, unet_sha256: str) -> bool:
    """Whether weights, or the first of a folder's, were trained on just this U-Net."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        return False
    try:
        base = json.loads(metadata(files[0]).get("base_sha256", "{}"))
    except (ValueError, RecursionError):
        raise UserError(f"{files[0]}: its base_sha256 is no JSON") from None
    return isinstance(base, dict) and base.get("unet") == unet_sha256


def _student_files(names: Sequence[str]) -> list[str]:
    students = [name for name in names if STUDENT_FILES.fullmatch(name)]
    chosen = [name for name in students if "unet/" in name] or students
    if not any(name.endswith(".safetensors") for name in chosen):
        raise UserError("the repository has no U-Net in .safetensors")
    return chosen


@dataclass(frozen=True)
class Weights:
    """What a method needs beside the model, and where it may be.

    method: stem of its file or folder in the zoo, and its name on the command line.
    published: owner/name of the authors' weights for Stable Diffusion 1, ``file`` in it, and
    ``revision`` (None: the newest).
    of: what the published weights are, where that is not the model they are run on.
    folders: whether the weights may be a folder.
    explicit: a path or hub id that is used in place of every other.
    unet_sha256: of the model's U-Net, to find weights that were trained on just this one.
    """

    method: str
    published: str = ""
    file: str = ""
    revision: str | None = None
    of: str = ""
    folders: bool = False
    explicit: str | None = None
    unet_sha256: str | None = None

    def find(self, unet: Any) -> Path:
        """The weights for a U-Net: explicit ones, those trained on it, those for its architecture.

        Raises NotAvailable, which says how to get them.
        """
        if self.explicit is not None:
            return self._named(self.explicit)
        architecture = architecture_of(shape_of(unet), "the U-Net")
        shared = {"zoo": lambda: self._shipped(zoo.weights()), "sd1": self._fetched}
        path = self._own() or shared.get(architecture, lambda: None)()
        if path is None:
            raise self._lacking(architecture)
        return path

    def label(self, path: Path) -> dict[str, str]:
        """What published weights really are; nothing for any others."""
        cached = f"models--{self.published.replace('/', '--')}"
        return {"of": self.of} if self.of and cached in path.parts else {}

    def _own(self) -> Path | None:
        """The zoo's weights that were trained on just this model: ``own/MODEL/METHOD``."""
        place = zoo.weights() / "own"
        if self.unet_sha256 is None or not place.is_dir():
            return None
        paths = (self._shipped(folder) for folder in sorted(place.iterdir()))
        return next((p for p in paths if p is not None and trained_on(p, self.unet_sha256)), None)

    def _shipped(self, place: Path) -> Path | None:
        file, folder = place / f"{self.method}.safetensors", place / self.method
        if file.is_file():
            return file
        return folder if self.folders and folder.is_dir() else None

    def _fetched(self) -> Path | None:
        if not self.published:
            return None
        path = try_to_load_from_cache(
            self.published,
            self.file,
            cache_dir=constants.HF_HUB_CACHE,
            revision=self.revision,
        )
        if not isinstance(path, str):
            return None
        return Path(path).parents[self.file.count("/")] if self.folders else Path(path)

    def _named(self, spec: str) -> Path:
        where = place(spec, f"{self.method} weights")
        if where.kind == "hub":
            return self._from_hub(where)
        if where.kind == "folder" and not self.folders:
            raise UserError(
                f"given {self.method} weights {spec!r}, a folder, expected a .safetensors file"
            )
        return Path(where.id)

    def _from_hub(self, where: Place) -> Path:
        if self.folders and where.file is None:
            return fetch_folder(where.id, where.revision, _student_files)
        if not (where.file or self.file):
            raise UserError(
                f"given {self.method} weights {where.id}, expected owner/name:FILE.safetensors"
            )
        return fetch_file(where.id, where.revision, where.file or self.file)

    def _lacking(self, architecture: str) -> NotAvailable:
        what = "'unet/*'" if self.folders else self.file
        include = "--include " if self.folders else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        fetch = f": hf download {self.published}{revision} {include}{what}"
        how = fetch if architecture == "sd1" and self.published else ""
        named = "the zoo" if architecture == "zoo" else architecture
        return NotAvailable(
            f"no weights for {named} yet{how} (name some with --weights {self.method}=PATH)"
        )
