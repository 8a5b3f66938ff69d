"""The art: emoji of free icon sets, fetched, checked and drawn once.

Only rebuilding or training needs it; running the suite needs the captions alone. Sources, hashes
and licenses stand in ``recipe.toml`` and are repeated in ``NOTICE``.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sunbench.errors import UserError
from sunbench.store.files import JsonObject
from sunbench.zoo.world.captions import drawings, recipe, things
from sunbench.zoo.world.images import EXTENTS, RESOLUTION, ROTATIONS

log = logging.getLogger(__name__)

DARK_INK, LIGHT_INK = "#161616", "#f6f6f6"

#: Emoji -> its drawing, if the set has one.
Draw = Callable[[str], Image.Image | None]


def fetch_packages(folder: Path, packages: list[JsonObject]) -> None:
    """Fetch the packages of a recipe with the npm client and check each against its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        file = folder / package["file"]
        if not file.exists():
            spec = f"{package['name']}@{package['version']}"
            log.info("npm pack %s", spec)
            done = subprocess.run(
                ["npm", "pack", "--silent", spec], cwd=folder, capture_output=True, text=True
            )
            if done.returncode or not file.exists():
                raise UserError(f"npm could not fetch {spec}: {done.stderr.strip()[-200:]}")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != package["sha256"]:
            raise UserError(f"{file.name}: expected sha256 {package['sha256']}, got {digest}")


def _code_point(emoji: str) -> str:
    return "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F)


class _IconSet:
    """One Iconify package: icons by name, aliases resolved, view boxes kept."""

    def __init__(self, tarball: Path) -> None:
        with tarfile.open(tarball) as tar:
            self.icons, chars = _member(tar, "icons.json"), _member(tar, "chars.json")
        self.names = {k.replace("-fe0f", ""): v for k, v in chars.items()}

    def svg(self, names: list[str], ink: str) -> str | None:
        """The first icon found under one of these names, drawn with ink for currentColor."""
        for name in names:
            icon = self._resolve(name)
            if icon is not None:
                view = (
                    f"{icon.get('left', 0)} {icon.get('top', 0)} {icon['width']} {icon['height']}"
                )
                body = icon["body"].replace("currentColor", ink)
                return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{body}</svg>'
        return None

    def _resolve(self, name: str) -> JsonObject | None:
        """An icon with its box; what an alias or an icon does not say, its parent or set does."""
        said: dict[str, Any] = {}
        aliases = self.icons.get("aliases", {})
        while name in aliases:
            said = aliases[name] | said
            name = aliases[name]["parent"]
        icon = self.icons["icons"].get(name)
        size = {k: self.icons[k] for k in ("width", "height")}
        return None if icon is None else size | icon | said


def _member(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(f"package/{name}")
    assert file is not None
    return json.loads(file.read())


def _render_svg(svg: str) -> Image.Image:
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def fit_drawing(image: Image.Image, extent: int) -> np.ndarray:
    """Crop to what is drawn, scale its longest side, center: (64, 64, 4) uint8, premultiplied."""
    box = image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    a = np.asarray(image.crop(box), np.float32)
    a[..., :3] *= a[..., 3:] / 255
    h, w = a.shape[:2]
    k = extent / max(h, w)
    size = (max(1, round(w * k)), max(1, round(h * k)))
    planes = [
        np.asarray(Image.fromarray(a[..., i]).resize(size, Image.Resampling.LANCZOS)).clip(0, 255)
        for i in range(4)
    ]
    out = np.zeros((RESOLUTION, RESOLUTION, 4), np.float32)
    y, x = (RESOLUTION - size[1]) // 2, (RESOLUTION - size[0]) // 2
    out[y : y + size[1], x : x + size[0]] = np.stack(planes, -1)
    return out.round().astype(np.uint8)


def svg_art(tarball: Path, ink: str, names: Callable[[str], list[str]]) -> Draw:
    """Draws an Iconify package's emoji, with ink for the current color."""
    icons = _IconSet(tarball)

    def draw(emoji: str) -> Image.Image | None:
        svg = icons.svg([icons.names.get(_code_point(emoji), ""), *names(emoji)], ink)
        return None if svg is None else _render_svg(svg)

    return draw


def bitmap_art(tarball: Path) -> Draw:
    """Draws a package's emoji from its .webp files."""
    with tarfile.open(tarball) as tar:
        files = {
            Path(m.name).stem.replace("-fe0f", ""): tar.extractfile(m)
            for m in tar.getmembers()
            if m.name.endswith(".webp")
        }
        data = {stem: f.read() for stem, f in files.items() if f is not None}

    def draw(emoji: str) -> Image.Image | None:
        drawing = data.get(_code_point(emoji))
        return None if drawing is None else Image.open(io.BytesIO(drawing)).convert("RGBA")

    return draw


def old_names(files: dict[str, Path]) -> Callable[[str], list[str]]:
    """Names that sets without code points may use for an emoji."""
    named = [_IconSet(files[n]).names for n in ("@iconify-json/noto", "@iconify-json/twemoji")]
    with tarfile.open(files["emojibase-data"]) as tar:
        labels = {
            e["hexcode"].lower().replace("-fe0f", ""): e["label"]
            for e in _member(tar, "en/data.json")
        }

    def names(emoji: str) -> list[str]:
        code = _code_point(emoji)
        label = labels[code].replace(" ", "-").replace(":", "").replace("’", "")
        return [*(table.get(code, "") for table in named), label]

    return names


def _drawing(image: Image.Image) -> np.ndarray:
    """One drawing at every size and rotation: (sizes, rotations, 64, 64, 4) uint8."""
    turned = [image.rotate(a, Image.Resampling.BICUBIC, expand=True) for a in ROTATIONS]
    return np.stack([np.stack([fit_drawing(t, extent) for t in turned]) for extent in EXTENTS])


def _render_style(style: str, draw: Draw) -> Tensor:
    """(drawings, sizes, rotations, 4, 64, 64) uint8, premultiplied."""
    out, first_use = [], dict[bytes, str]()
    for thing, emoji in drawings():
        image = draw(emoji)
        if image is None:
            raise UserError(f"style {style} has no drawing of {things()[thing].name} ({emoji})")
        twin = first_use.setdefault(image.tobytes(), emoji)
        if twin != emoji:
            raise UserError(f"style {style}: {emoji} looks exactly like {twin}")
        out.append(_drawing(image))
    return torch.from_numpy(np.stack(out)).permute(0, 1, 2, 5, 3, 4).contiguous()


def render(packages: Path, file: Path) -> None:
    """Fetch the art into ``packages`` and write every drawing in every style to ``file``.

    Styles whose ink follows the background (line art) get a second entry ``STYLE/light``.
    """
    fetch_packages(packages, recipe()["packages"])
    files = {p["name"]: packages / p["file"] for p in recipe()["packages"]}
    names = old_names(files)
    out: dict[str, Tensor] = {}
    for style in recipe()["styles"]:
        name, tarball = style["name"], files[style["package"]]
        if "iconify" not in style["package"]:
            out[name] = _render_style(name, bitmap_art(tarball))
            continue
        out[name] = _render_style(name, svg_art(tarball, DARK_INK, names))
        if style.get("line"):
            out[f"{name}/light"] = _render_style(name, svg_art(tarball, LIGHT_INK, names))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    save_file(out, part)
    part.replace(file)
