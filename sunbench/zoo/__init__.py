"""The built-in zoo: a complete small Stable Diffusion world trained on emoji art."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import tomllib
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


def weights() -> Path:
    """The folder of the shipped weights."""
    return Path(str(resources.files("sunbench.zoo").joinpath("weights")))


@cache
def names() -> list[str]:
    """The zoo's models, by its recipe."""
    text = resources.files("sunbench.zoo").joinpath("zoo.toml").read_text("utf-8")
    return sorted(model["name"] for model in tomllib.loads(text)["models"])


def folder(name: str) -> Path:
    """A plain diffusers folder of a zoo model, or the scorer's transformers folder.

    The models share all but their U-Nets, which are shipped once; the folder is put together in
    the cache, of links where the system has them.
    """
    if name == "scorer":
        return _present(weights() / "scorer")
    if name not in names():
        raise unknown("zoo model", name, [*names(), "scorer"])
    parts = {part: _present(weights() / part) for part in SHARED}
    parts["unet"] = _present(weights() / f"unet-{name}")
    target = cache_root() / "zoo" / _fingerprint(parts) / name
    if not target.is_dir():
        _assemble(parts, weights() / "model_index.json", target)
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


def _assemble(parts: dict[str, Path], index: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as tmp:
        made = Path(tmp) / target.name
        made.mkdir()
        shutil.copyfile(index, made / index.name)
        for name, part in parts.items():
            (made / name).mkdir()
            for file in part.iterdir():
                _link(file, made / name / file.name)
        with suppress(OSError):  # another process was faster
            os.replace(made, target)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
