"""The page of ``sunbench zoo check``: every measurement, what is wanted of it, and the sheets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sunbench.models import find_model, load
from sunbench.store import make_folder
from sunbench.studies.image_sheet import sheet
from sunbench.studies.sampled import sampled_images
from sunbench.studies.zoo_control import check_control, control_sheet
from sunbench.studies.zoo_quality import STEPS, Check, as_row, check_model, models
from sunbench.zoo.world.autoencoder import (
    every_style,
    held_out_batch,
    reconstruct,
    reconstruction_psnr,
)
from sunbench.zoo.world.captions import held_out_prompts, recipe
from sunbench.zoo.world.images import Sprites

log = logging.getLogger(__name__)

STEERED = "emoji-3d"  # whose images the ControlNet's sheet shows
SHEET_SEEDS = 5
#: (method, steps) of the sheet of few steps.
STEP_GRID = (("dpm++", 25), ("dpm++", 8), ("dpm++", 4), ("ddim", 8), ("ddim", 4), ("unipc", 4))


def check(out: Path, n: int, sprites_file: Path | None) -> list[Check]:
    """Measure everything on n prompts per model; write ``README.md`` and the sheets into ``out``.

    sprites_file: the art, which the autoencoder's measurement needs.
    """
    make_folder(out)
    tables: dict[str, list[Check]] = {}
    if sprites_file is not None:
        tables["autoencoder"] = [_autoencoder(Sprites.load(sprites_file))]
    for name in models():
        log.warning("measuring %s", name)
        tables[name] = check_model(name, n) + check_control(name, max(2, n // 4))
        seed_sheet(name).save(out / f"seeds-{name}.png")
        step_sheet(name).save(out / f"steps-{name}.png")
    control_sheet(STEERED).save(out / f"controlnet-{STEERED}.png")
    tables["all models"] = [_solver_order(tables)]
    (out / "README.md").write_text(_page(tables, n), "utf-8")
    return [one for table in tables.values() for one in table]


def _autoencoder(sprites: Sprites) -> Check:
    """PSNR of real held-out images after the autoencoder."""
    images = held_out_batch(sprites, every_style(), 512).images
    vae = load(find_model(models()[0])).pipeline.vae
    value = float(reconstruction_psnr(reconstruct(vae, images), images).mean())
    return Check("PSNR, dB", value, recipe()["checks"]["autoencoder"], None, len(images))


def _solver_order(tables: Mapping[str, Sequence[Check]]) -> Check:
    """On how many models DPM++ and UniPC are nearer to the reference than DDIM, 8 and 12 steps."""
    right = sum(
        all(c.passed for c in tables[name] if c.name.startswith("farther of")) for name in models()
    )
    wanted = recipe()["checks"]["solver_models"]
    return Check("models on which DPM++ and UniPC lead DDIM", right, wanted, None, len(models()))


# ------------------------------------------------------------------------------ sheets


def seed_sheet(name: str, n: int = 8) -> Image.Image:
    """Held-out captions, five seeds of each side by side."""
    card, prompts = find_model(name), held_out_prompts()[:n]
    rows = [as_row(p) for p in prompts]
    seeds = tuple(range(SHEET_SEEDS))
    images = sampled_images(load(card), rows, STEPS, card.guidance_scale, seeds=seeds)
    per_prompt = images.split(SHEET_SEEDS)
    return sheet(
        [(p.text, x) for p, x in zip(prompts, per_prompt, strict=True)],
        [f"seed {s}" for s in seeds],
    )


def step_sheet(name: str, n: int = 6) -> Image.Image:
    """Captions x (method, steps) of one model, the same noise along a row."""
    card, prompts = find_model(name), held_out_prompts()[8 : 8 + n]
    loaded, rows = load(card), [as_row(p) for p in prompts]
    columns: list[Tensor] = [
        sampled_images(loaded, rows, k, card.guidance_scale, m) for m, k in STEP_GRID
    ]
    stacked = torch.stack(columns, 1)
    return sheet(
        [(p.text, x) for p, x in zip(prompts, stacked, strict=True)],
        [f"{m} {k}" for m, k in STEP_GRID],
    )


# ------------------------------------------------------------------------------ page


def _page(tables: Mapping[str, Sequence[Check]], n: int) -> str:
    every = [(name, c) for name, table in tables.items() for c in table if c.passed is not None]
    short = [(name, c) for name, c in every if not c.passed]
    sprites = " --sprites FILE" * ("autoencoder" in tables)
    lines = [
        "# The zoo's quality",
        "",
        f"`sunbench zoo check --images {n}{sprites}`: held-out prompts and the suite's own"
        " metrics.",
        "What is wanted stands in `sunbench/zoo/world/recipe.toml` under `checks`; why, in",
        "[docs/toy-worlds.md](../../docs/toy-worlds.md). The distance is `perceptual[zoo-clip]`.",
        "",
        f"{len(every) - len(short)} of {len(every)} checks hold. Short:"
        if short
        else "Every check holds.",
        "",
        *(f"- {name}: {c.name} {c.value:.3f}, wanted {c.wanted}" for name, c in short),
    ]
    for name, table in tables.items():
        lines += ["", f"## {name}", "", "| check | measured | wanted | holds | images |"]
        lines += ["|---|---:|---|---|---:|", *[c.line() for c in table]]
        if name in models():
            lines += ["", "Five seeds of each prompt, 25 steps:", "", f"![seeds](seeds-{name}.png)"]
            lines += ["", "Few steps, the same noise along a row:", ""]
            lines += [f"![steps](steps-{name}.png)"]
    lines += [
        "",
        "## Edges",
        "",
        "`controlnet-edges` on a fine-tune that it never saw. A brief caption names the thing and",
        "the background's color; size, place and pattern come from the edges:",
        "",
        f"![{STEERED}](controlnet-{STEERED}.png)",
    ]
    return "\n".join(lines) + "\n"
