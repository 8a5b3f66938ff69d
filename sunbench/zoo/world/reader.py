"""A reader: a small network that names what an image of the zoo shows.

It belongs to `sunbench zoo check` alone, where "what a caption names comes out" has to be counted.
No model and no metric has seen it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sunbench.training import LoopSettings, fit
from sunbench.training.prefetch import Prefetcher
from sunbench.zoo.world.autoencoder import every_style, held_out_batch
from sunbench.zoo.world.captions import PATTERNS, PLACES, SIZES, colors, recipe, things
from sunbench.zoo.world.images import Sprites, batch_maker

log = logging.getLogger(__name__)

#: What it names, in the order of a scene's row, then the style.
ATTRIBUTES = ("thing", "size", "place", "color", "pattern", "style")


def class_counts() -> tuple[int, ...]:
    """How many values each attribute has."""
    counts = len(things()), len(SIZES), len(PLACES), len(colors()), len(PATTERNS)
    return (*counts, len(recipe()["styles"]))


def _block(a: int, b: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.SiLU(inplace=True))


class Reader(nn.Module):
    """Convolutions at falling resolution, then one linear head per attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = recipe()["reader"]["channels"]
        layers: list[nn.Module] = [_block(3, widths[0], 2)]
        for a, b in zip(widths, [*widths[1:], widths[-1]], strict=True):
            layers += [_block(a, a, 1), _block(a, b, 2)]
        self.body = nn.Sequential(*layers[:-1])
        self.heads = nn.ModuleList(nn.Linear(widths[-1] * 16, n) for n in class_counts())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits per attribute; images (N, 3, 64, 64) in -1..1."""
        x = F.adaptive_avg_pool2d(self.body(images), 4).flatten(1)
        return [head(x) for head in self.heads]

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The likeliest value of each attribute: (N, 6)."""
        rows = [torch.stack([h.argmax(1) for h in self(b)], 1) for b in images.split(256)]
        return torch.cat(rows)


def degraded(images: Tensor, g: torch.Generator) -> Tensor:
    """Half of the images softened and a little noise on all: generated images are not perfect."""
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(images), 1, 1, 1, generator=g) * (
        torch.rand(len(images), 1, 1, 1, generator=g) < 0.5
    )
    noise = torch.randn(images.shape, generator=g) * 0.05
    return images + share * (soft - images) + noise


def train_reader(sprites: Sprites, folder: Path, device: str = "cpu") -> Reader:
    """Cross-entropy of every attribute on all styles."""
    settings = LoopSettings.from_table(recipe()["reader"]["loop"])
    torch.manual_seed(settings.seed)
    reader = Reader().to(device)
    styles = every_style()
    batches = Prefetcher(batch_maker(sprites, styles, settings.batch, settings.seed), device)

    def loss(k: int) -> dict[str, Tensor]:
        batch = batches(k)
        g = torch.Generator().manual_seed(settings.seed * 7919 + k)
        logits = reader(degraded(batch.images, g).to(device))
        truth = torch.cat([batch.scenes, batch.styles[:, None]], 1).to(device)
        parts = [F.cross_entropy(h.float(), truth[:, i]) for i, h in enumerate(logits)]
        return {"loss": sum(parts, torch.zeros(())), **dict(zip(ATTRIBUTES, parts, strict=True))}

    held_out = held_out_batch(sprites, styles, 1024)

    def probe(step: int, ema: dict[str, Tensor]) -> None:
        net = Reader().eval()
        net.load_state_dict(ema)
        truth = torch.cat([held_out.scenes, held_out.styles[:, None]], 1)
        right = (net.read(held_out.images) == truth).float().mean(0).tolist()
        said = ", ".join(f"{n} {r:.3f}" for n, r in zip(ATTRIBUTES, right, strict=True))
        log.info("reader step %d: held-out right %s", step, said)

    reader.load_state_dict(fit(reader, loss, settings, folder, on_checkpoint=probe))
    return reader
