"""The built-in zoo: a complete small Stable Diffusion world trained on emoji art."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path

from sunbench.errors import UserError, unknown
from sunbench.paths import cache_root

#: Parts that every model of the zoo shares, as folders of a diffusers pipeline.
SHARED = ("vae", "text_encoder", "tokenizer", "scheduler")
#: The ControlNet's stage in the zoo's build and its folder among the weights.
CONTROLNET = "controlnet-edges"
#: Folders among the weights: the network that names what an image shows, features of real images.
READER, REAL = "reader", "real"


def weights() -> Path:
    """The folder of the shipped weights."""
    return Path(str(resources.files("sunbench.zoo").joinpath("weights")))


@cache
def names() -> list[str]:
    """The zoo's models, by its recipe."""
    from sunbench.zoo.world.captions import recipe

    return sorted(model["name"] for model in recipe()["models"])


def folder(name: str) -> Path:
    """A plain diffusers folder of a zoo model, or the scorer's transformers folder.

    The models share all but their U-Nets, which are shipped once; the folder is put together in
    the cache, of links where the system has them, and again when a part of it is lost or changed.
    """
    if name == "scorer":
        return _present(weights() / "scorer")
    if name not in names():
        raise unknown("zoo model", name, [*names(), "scorer"])
    parts = {part: _present(weights() / part) for part in SHARED}
    parts["unet"] = _present(weights() / f"unet-{name}")
    target = cache_root() / "zoo" / _fingerprint(parts) / name
    index = weights() / "model_index.json"
    if not _is_whole(parts, index, target):
        _rebuild(parts, index, target)
    return target


def controlnet() -> Path:
    """The folder of the ControlNet on edges."""
    return _present(weights() / CONTROLNET)


def _present(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"the zoo's {path.name} is not installed; `sunbench zoo build` makes it")
    return path


def _fingerprint(parts: dict[str, Path]) -> str:
    """Of the place, size and time of every file: a rebuilt zoo gets a new folder."""
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        for file in sorted(part.iterdir()):
            stat = file.stat()
            digest.update(f"{name} {file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(parts: dict[str, Path], index: Path) -> dict[str, Path]:
    """An assembled folder's files: name below the folder -> the shipped file."""
    inside = {
        f"{name}/{file.name}": file for name, part in parts.items() for file in part.iterdir()
    }
    return {index.name: index, **inside}


def _is_whole(parts: dict[str, Path], index: Path, target: Path) -> bool:
    """Whether an assembled folder has every file, no other, and each as it is shipped."""
    files = _files(parts, index)
    names = {p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir()}
    return names == files.keys() and all(
        _is_same(source, target / name) for name, source in files.items()
    )


def _is_same(source: Path, target: Path) -> bool:
    """Whether a file is a link to another or a copy of it."""
    try:
        return target.samefile(source) or filecmp.cmp(source, target, shallow=False)
    except OSError:
        return False


def _rebuild(parts: dict[str, Path], index: Path, target: Path) -> None:
    """Assemble a folder; what is left of an earlier one is removed first."""
    try:
        if target.is_symlink() or target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".broken-") as tmp:
                target.rename(Path(tmp) / target.name)
        _assemble(parts, index, target)
    except OSError as error:
        raise UserError(f"{target}: the zoo's folder cannot be built ({error.strerror})") from error
    if not _is_whole(parts, index, target):
        raise UserError(f"{target}: the zoo's folder is incomplete after it was rebuilt")


def _assemble(parts: dict[str, Path], index: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as tmp:
        folder = Path(tmp) / target.name
        folder.mkdir()
        shutil.copyfile(index, folder / index.name)
        for name, part in parts.items():
            (folder / name).mkdir()
            for file in part.iterdir():
                _link(file, folder / name / file.name)
        with suppress(OSError):  # another process was faster
            os.replace(folder, target)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
