"""The page of ``sunbench zoo check``: every figure, the sheets, and what was hoped for."""

from __future__ import annotations

import logging
from pathlib import Path

from sunbench.store import make_folder
from sunbench.studies.zoo_control import check_control, control_sheet
from sunbench.studies.zoo_quality import (
    MODELS,
    Probe,
    check_model,
    check_real,
    guidance_scan,
    model_sheet,
    step_sheet,
)
from sunbench.zoo.data import Sprites

log = logging.getLogger(__name__)

STEERED = "emoji-3d"  # whose pictures the ControlNet's sheet shows


def check(out: Path, n: int, sprites_file: Path | None) -> list[Probe]:
    """Measure everything and write ``README.md`` and the sheets into ``out``."""
    make_folder(out)
    sprites = None if sprites_file is None else Sprites.load(sprites_file)
    probes = [] if sprites is None else check_real(sprites, max(512, n))
    for name in MODELS:
        log.warning("measuring %s", name)
        probes += check_model(name, n, sprites)
    scales = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    scans = {name: guidance_scan(name, n, scales) for name in ("emoji", "emoji-3d")}
    model_sheet().save(out / "models.png")
    for name in MODELS[1:]:
        step_sheet(name).save(out / f"steps-{name}.png")
    probes += check_control(n)
    control_sheet(STEERED).save(out / f"controlnet-{STEERED}.png")
    (out / "README.md").write_text(_page(probes, scans), "utf-8")
    return probes


def _page(probes: list[Probe], scans: dict[str, list[tuple[float, float, float]]]) -> str:
    lines = [
        "# The zoo's quality",
        "",
        "`sunbench zoo check --sprites build/zoo/sprites.safetensors`; held-out captions only.",
        "",
        "| what | measured | wanted | pictures |",
        "|---|---:|---|---:|",
        *[p.line() for p in probes],
        "",
        "## Guidance (DPM-Solver++ 25 steps, captions without a style word)",
        "",
        "| model | guidance | CLIP score | right caption among 64 |",
        "|---|---:|---:|---:|",
        *[f"| {m} | {g:g} | {s:.2f} | {r:.3f} |" for m, scan in scans.items() for g, s, r in scan],
        "",
        "## Pictures",
        "",
        "Held-out captions, 25 steps, the same noise along a row: ![models](models.png)",
        "",
        "Methods and steps, the same noise along a row:",
        "",
        *[f"![{m}](steps-{m}.png)" for m in MODELS[1:]],
        "",
        "`controlnet-edges` on a fine-tune that it never saw. A brief caption names the thing and",
        "the ground's colour; size, place and pattern come from the edges:",
        "",
        f"![{STEERED}](controlnet-{STEERED}.png)",
    ]
    return "\n".join(lines) + "\n"
