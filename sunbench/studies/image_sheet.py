"""A labeled grid of small images, enlarged without smoothing."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def sheet(rows: list[tuple[str, Tensor]], heads: list[str], scale: int = 2) -> Image.Image:
    """Labeled rows of images (N, 3, H, W) uint8, enlarged without smoothing."""
    font = ImageFont.load_default(13)
    side, left = rows[0][1].shape[-1] * scale, 190
    top = 6 + 15 * max(len(_wrap(head, side // 7)) for head in heads)
    width = left + len(rows[0][1]) * (side + 4)
    page = Image.new("RGB", (width, top + len(rows) * (side + 4)), "white")
    draw = ImageDraw.Draw(page)
    for j, head in enumerate(heads):
        words = "\n".join(_wrap(head, side // 7))
        draw.multiline_text((left + j * (side + 4), 2), words, "black", font, spacing=1)
    for i, (label, images) in enumerate(rows):
        y = top + i * (side + 4)
        draw.multiline_text((4, y + 4), "\n".join(_wrap(label, 26)), "black", font)
        for j, image in enumerate(images):
            tile = Image.fromarray(image.permute(1, 2, 0).numpy())
            tile = tile.resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (left + j * (side + 4), y))
    return page


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width and lines[-1]:
            lines.append("")
        lines[-1] = (lines[-1] + " " + word).strip()
    return lines
