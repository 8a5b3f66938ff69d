"""What the audit recomputes of networks and schedules, on the meta device."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from sunbench.models.sources import CONFIGS
from sunbench.paper import counts
from sunbench.paper.check import Check
from sunbench.paper.numbers import printed


def _count(finding: str, what: str, paper: float, got: int, known: bool) -> Check:
    """A parameter count against a printed one: they agree when it rounds to what is printed."""
    digits = 0 if paper >= 100 else 2 if paper < 10 else 1
    agrees = f"{got / 1e6:.{digits}f}" == f"{paper:.{digits}f}"
    return Check(finding, what, f"{paper:g}M", f"{got:,}", agrees, known)


# ------------------------------------------------------------------------------ parameters


def parameter_checks() -> Iterator[Check]:
    """Counts that the papers print."""
    below, above = counts.nearest_subset(18_500_000)
    kv = sum(2 * c * w for c, w in counts.sun_layers().values())
    size = counts.sun() * 4 / 2**20
    yield _count("sun-parameters", "K' and V' of 16 cross-attentions", 18.5, kv, False)
    yield _count(
        "sun-parameters", "with alpha and beta (the paper's form)", 18.5, counts.sun(), False
    )
    released = counts.sun(add_pos=True)
    yield _count("sun-parameters", "released form, two branches", 18.5, released, False)
    nearest = f"nearest {below:,} and {above:,}"
    yield Check("sun-parameters", "any choice of layers", "18.5M", nearest, below == above, False)
    rounded = f"{size:.1f} MiB in float32; {math.ceil(size)} / 4 = {math.ceil(size) / 4:g}"
    yield Check("sun-parameters", "file size / 4", "18.5M", rounded, math.ceil(size) == 74, True)
    plain, more = counts.lcm_lora(), counts.lcm_lora(time_embedding=True)
    yield _count("lcm-lora-parameters", "rank 64 on 14 kinds of layer", 67.5, plain, False)
    yield _count("lcm-lora-parameters", "and the time embedding", 67.5, more, True)
    yield from _boostdiff_counts()
    yield from _sizes()


def _boostdiff_counts() -> Iterator[Check]:
    name, whole = "boostdiff-parameters", counts.parameters(counts.base("sd2"))
    lora, bias = counts.boostdiff_lora(), counts.biases()
    yield _count(name, "LoRA r8 on q, k, v, out of SD2.1-base", 1.66, lora, True)
    yield _count(name, "all biases of SD2.1-base", 0.34, bias, True)
    yield _count(name, "biases of linear layers alone", 0.34, counts.linear_biases(), False)
    shares = f"{100 * lora / whole:.1f}% and {100 * bias / whole:.2f}%"
    yield Check(
        name, "shares of the U-Net", "0.2% and 0.04%", shares, shares == "0.2% and 0.04%", True
    )
    same = counts.biases("sd1")
    yield Check(name, "all biases of SD1.5", "-", f"{same:,}", same == bias, True)


def _sizes() -> Iterator[Check]:
    full = counts.parameters(counts.base("sd1"))
    yield _count("sun-parameters", "SD1.5's U-Net (Guided-Distill, LCM)", 860, full, True)
    for name, layers in counts.ASDM.items():
        got = counts.parameters(counts.unet("sd1", layers_per_block=layers))
        text = f"{got:,} ({100 * (got / full - 1):+.1f}%)"
        yield Check(
            "asdm-sizes",
            f"{name}, layers {layers}",
            "xxxB" if name == "M2" else "-",
            text,
            True,
            True,
        )
    for name, changes in counts.BK.items():
        got = counts.parameters(counts.unet("sd1", **changes))
        card = next(p["unet_params"] for p in printed("bk-sdm") if p["row"] == f"BK-SDM-{name}")
        yield Check(
            "asdm-sizes",
            f"BK-SDM-{name}",
            card,
            f"{got:,}",
            _billions(got) == card,
            name == "Base",
        )


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f}B"


def mac_checks() -> Iterator[Check]:
    """What SUN adds to an evaluation."""
    macs = counts.sun_macs() / 1e9
    text = f"{macs:.2f} GMACs more an evaluation, {100 * macs / 401.6:.1f}% of 401.6"
    yield Check(
        "sun-lcm-lora-fused",
        "cost of one branch of SUN",
        "less than a LoRA's",
        text,
        macs <= 0,
        False,
    )


# ------------------------------------------------------------------------------ schedules


def _scheduler_config() -> dict[str, Any]:
    file = CONFIGS / "sd1" / "scheduler" / "scheduler_config.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return {k: v for k, v in found.items() if not k.startswith("_")} | {"clip_sample": False}


def schedule_checks() -> Iterator[Check]:
    """DDIM's timesteps by spacing; where BoostDiff's weight lies."""
    config = _scheduler_config()
    for spacing in ("leading", "trailing"):
        made = DDIMScheduler.from_config(config, timestep_spacing=spacing)
        made.set_timesteps(4)
        text = ", ".join(str(int(t)) for t in made.timesteps)
        yield Check(
            "ddim-spacing",
            f"4 steps, {spacing}",
            "unsaid",
            text,
            text.startswith("999"),
            spacing == "trailing",
        )
    alphas = DPMSolverMultistepScheduler.from_config(config).alphas_cumprod.double().numpy()
    weight = (1 - alphas) / alphas
    share = 100 * weight[900:].sum() / weight.sum()
    text = f"{share:.1f}% on t >= 900; {weight[999]:.0f} at 999, {weight[100]:.2f} at 100"
    yield Check(
        "boostdiff-weight", "(sigma / alpha)^2", "constant", text, bool(np.ptp(weight) < 1), False
    )
