"""Is the zoo good enough to tell methods apart? Figures on held-out captions, and sample sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sunbench.metrics import clip_extractor, fd, load_network
from sunbench.metrics.perceptual import Perceptual
from sunbench.models import find, load
from sunbench.studies.sampled import sampled_images
from sunbench.zoo.data import Scene, Sprites, grounds, recipe, scenes
from sunbench.zoo.text import style_words, with_style

MODELS = ("emoji", "emoji-3d", "emoji-flat", "emoji-line")
BORDER = 2  # pixels that no subject reaches


@dataclass(frozen=True)
class Probe:
    """One measurement: what, its value, what was hoped for, how many images."""

    name: str
    value: float
    target: str
    n: int

    def line(self) -> str:
        """As a row of a Markdown table."""
        return f"| {self.name} | {self.value:.3f} | {self.target} | {self.n} |"


# ------------------------------------------------------------------------------ images


def held_out_scenes(n: int, seed: int = 0) -> list[Scene]:
    """n held-out scenes in a fixed random order."""
    g = torch.Generator().manual_seed(seed)
    pool = scenes()[1]
    return [pool[i] for i in torch.randperm(len(pool), generator=g)[:n].tolist()]


def caption_for(scene: Scene, style: int | None) -> str:
    """The scene's caption, with a style word if one is given."""
    return with_style(scene.caption, "" if style is None else style_words()[style])


# ------------------------------------------------------------------------------ judgements


def ground_colours(images: Tensor) -> Tensor:
    """Index of the ground colour of each image, from the mean of its border: (N,)."""
    edge = torch.ones(images.shape[-2:], dtype=torch.bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    mean = images[..., edge].float().mean(-1) / 255
    expected = grounds()[..., edge].mean(-1)  # colours, grounds, 3
    distance = (mean[:, None, None] - expected[None]).square().sum(-1)
    return distance.flatten(1).argmin(1) // expected.shape[1]


def retrieval(image: Tensor, text: Tensor, group: int) -> float:
    """Share of images whose own caption is the nearest among ``group`` captions."""
    image, text = (x / x.norm(dim=1, keepdim=True) for x in (image, text))
    hits = [
        (a @ b.T).argmax(1) == torch.arange(len(a))
        for a, b in zip(image.split(group), text.split(group), strict=True)
    ]
    return float(torch.cat(hits).float().mean())


@torch.no_grad()
def reconstructed(vae: Any, x: Tensor) -> Tensor:
    """Images (N, 3, H, W) in -1..1 -> uint8, after the autoencoder: the best a U-Net can draw."""
    y = torch.cat([vae.decode(vae.encode(b).latents).sample for b in x.split(64)])
    return ((y.clamp(-1, 1) / 2 + 0.5) * 255).round().to(torch.uint8)


def nearest_style(images: Tensor, scene_list: list[Scene], sprites: Sprites, vae: Any) -> Tensor:
    """Style whose real image of its scene is nearest to each image by perceptual[zoo-clip].

    Maps of features, not the embedding: a CLIP learns to name a thing however it is drawn (of real
    base-style pictures the embedding finds 80 %, the maps 99 %).
    """
    network, distances = load_network("zoo-clip"), []
    for style in range(len(recipe()["styles"])):
        real = sprites.compose(scene_list, torch.full((len(scene_list),), style)) * 2 - 1
        shown = reconstructed(vae, real)
        distances.append(Perceptual().paired_scores(images, shown, network))
    return torch.stack(distances, 1).argmin(1)


# ------------------------------------------------------------------------------ figures


def check_real(sprites: Sprites, n: int) -> list[Probe]:
    """Figures of the autoencoder and the scorer on real held-out compositions."""
    from sunbench.zoo.train import held_out

    vae = load(find("emoji")).pipeline.vae
    scorer = clip_extractor("zoo-clip")
    x, scene_list, styles = held_out(sprites, list(range(len(recipe()["styles"]))), n)
    pixels = ((x / 2 + 0.5) * 255).round().to(torch.uint8)
    again = reconstructed(vae, x)
    mse = (again / 255 - (x / 2 + 0.5)).square().flatten(1).mean(1)
    seen = (nearest_style(again, scene_list, sprites, vae) == styles).float().mean()
    text = scorer.embed_text([s.caption for s in scene_list])
    top = retrieval(scorer.embed(pixels), text, 256)
    colour = (ground_colours(pixels) == torch.tensor([s.colour for s in scene_list])).float()
    return [
        Probe("VAE reconstruction, PSNR dB", float(-10 * mse.log10().mean()), ">= 24", n),
        Probe("scorer: right caption among 256, real images", top, ">= 0.90", n),
        Probe("ground colour read off real images", float(colour.mean()), "1 (the reader)", n),
        Probe("style read off real images, after the VAE", float(seen), "1 (the reader)", n),
    ]


def check_model(name: str, n: int, sprites: Sprites | None) -> list[Probe]:
    """Figures of 25-step images of one model with its card's guidance."""
    card = find(name)
    loaded, scorer = load(card), clip_extractor("zoo-clip")
    chosen = held_out_scenes(n)
    table = next(m for m in recipe()["models"] if m["name"] == name)
    order = [s["name"] for s in recipe()["styles"]]
    own = [order.index(s) for s in table["styles"]]
    style = [own[i % len(own)] for i in range(n)]
    captions = [
        caption_for(s, k if len(own) > 1 else None) for s, k in zip(chosen, style, strict=True)
    ]
    text = scorer.embed_text([s.caption for s in chosen])
    x = sampled_images(loaded, captions, 25, card.guidance_scale)
    plain = sampled_images(loaded, captions, 25, 1.0)
    few = sampled_images(loaded, captions, 4, card.guidance_scale, "ddim")
    features, plain_f, few_f = (scorer.embed(p) for p in (x, plain, few))
    cosine = lambda f: float(100 * torch.cosine_similarity(f, text).mean())  # noqa: E731
    right = (ground_colours(x) == torch.tensor([s.colour for s in chosen])).float().mean()
    probes = [
        Probe(f"{name}: right caption among 64", retrieval(features, text, 64), ">= 0.90", n),
        Probe(f"{name}: ground colour right", float(right), ">= 0.95", n),
        Probe(f"{name}: CLIP score, guidance {card.guidance_scale:g}", cosine(features), "", n),
        Probe(f"{name}: CLIP score, guidance 1", cosine(plain_f), "clearly lower", n),
        Probe(f"{name}: CLIP score, DDIM 4 steps", cosine(few_f), "lower", n),
        Probe(
            f"{name}: fd[zoo-clip] of DDIM 4 steps to 25 steps",
            float(fd(features.numpy(), few_f.numpy())),
            "far from 0",
            n,
        ),
    ]
    if sprites is not None:
        styles = nearest_style(x, chosen, sprites, loaded.pipeline.vae)
        share = (styles == torch.tensor(style)).float().mean()
        probes.insert(2, Probe(f"{name}: style right", float(share), ">= 0.90", n))
    return probes


def guidance_scan(name: str, n: int, scales: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """(guidance, CLIP score, right caption among 64) of 25-step images."""
    loaded, scorer = load(find(name)), clip_extractor("zoo-clip")
    chosen = held_out_scenes(n, seed=1)
    text = scorer.embed_text([s.caption for s in chosen])
    out = []
    for g in scales:
        f = scorer.embed(sampled_images(loaded, [s.caption for s in chosen], 25, g))
        score = float(100 * torch.cosine_similarity(f, text).mean())
        out.append((g, score, retrieval(f, text, 64)))
    return out


# ------------------------------------------------------------------------------ sheets


def sheet(rows: list[tuple[str, Tensor]], heads: list[str], scale: int = 2) -> Image.Image:
    """Labelled rows of images (N, 3, H, W) uint8, enlarged without smoothing."""
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


def model_sheet(n: int = 10) -> Image.Image:
    """Several held-out captions x the four models, 25 steps."""
    chosen = held_out_scenes(n, seed=3)
    captions = [s.caption for s in chosen]
    columns = {}
    for name in MODELS:
        card = find(name)
        columns[name] = sampled_images(load(card), captions, 25, card.guidance_scale)
    rows = [(c, torch.stack([columns[m][i] for m in MODELS])) for i, c in enumerate(captions)]
    return sheet(rows, list(MODELS))


def step_sheet(name: str, n: int = 6) -> Image.Image:
    """Captions x (method, steps) of one model, the same noise along a row."""
    chosen, card = held_out_scenes(n, seed=4), find(name)
    captions, loaded = [s.caption for s in chosen], load(card)
    grid = [
        ("dpm++", 25),
        ("dpm++", 8),
        ("dpm++", 4),
        ("ddim", 8),
        ("ddim", 4),
        ("ddim-leading", 4),
    ]
    cols = [sampled_images(loaded, captions, k, card.guidance_scale, m) for m, k in grid]
    rows = [(c, torch.stack([col[i] for col in cols])) for i, c in enumerate(captions)]
    return sheet(rows, [f"{m} {k}" for m, k in grid])
