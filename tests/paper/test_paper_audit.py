"""Every computed line of reports/paper_audit.md, computed again from the papers' own numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import ROUND_DOWN, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paper_counts as counts
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from paper_lookup import lookup

from sunbench.models.sources import CONFIGS
from sunbench.paper.numbers import printed

REPORT = Path(__file__).parents[2] / "reports" / "paper_audit.md"
#: What is computed -> (printed in the paper, computed, whether they agree).
Lines = dict[str, tuple[str, str, str]]

# ------------------------------------------------------------------------------ the report


@cache
def report() -> dict[str, Lines]:
    """The tables of the committed report by the title of their finding."""
    if not REPORT.is_file():
        pytest.skip("not a checkout")
    sections = re.split(r"^### ", REPORT.read_text("utf-8"), flags=re.M)[1:]
    titled = {text.partition("\n")[0]: _table(text) for text in sections}
    return {title: lines for title, lines in titled.items() if lines}


def _table(section: str) -> Lines:
    rows = [x.strip("| ").split(" | ") for x in section.splitlines() if x.startswith("| ")]
    return {what: (paper, computed, agrees) for what, paper, computed, agrees in rows[2:]}


def _verdict(agrees: bool) -> str:
    return "yes" if agrees else "no"


# ------------------------------------------------------------------------------ parameters


def _count(printed_millions: float, parameters: int) -> tuple[str, str, str]:
    """They agree when the computed count rounds to what is printed."""
    digits = 0 if printed_millions >= 100 else 2 if printed_millions < 10 else 1
    agrees = f"{parameters / 1e6:.{digits}f}" == f"{printed_millions:.{digits}f}"
    return f"{printed_millions:g}M", f"{parameters:,}", _verdict(agrees)


def sun_parameters() -> Lines:
    below, above = counts.nearest_subset(18_500_000)
    assert below < 18_450_000
    assert above > 18_550_000
    projections = sum(2 * c * w for c, w in counts.sun_layers().values())
    size = counts.sun() * 4 / 2**20
    rounded = f"{size:.1f} MiB in float32; {math.ceil(size)} / 4 = {math.ceil(size) / 4:g}"
    return {
        "K' and V' of 16 cross-attentions": _count(18.5, projections),
        "with alpha and beta (the paper's form)": _count(18.5, counts.sun()),
        "released form, two branches": _count(18.5, counts.sun(add_pos=True)),
        "any choice of layers": ("18.5M", f"nearest {below:,} and {above:,}", "no"),
        "file size / 4": ("18.5M", rounded, _verdict(math.ceil(size) / 4 == 18.5)),
        "SD1.5's U-Net (Guided-Distill, LCM)": _count(860, counts.parameters(counts.base("sd1"))),
    }


def lcm_lora_parameters() -> Lines:
    return {
        "rank 64 on 14 kinds of layer": _count(67.5, counts.lcm_lora()),
        "and the time embedding": _count(67.5, counts.lcm_lora(time_embedding=True)),
    }


def boostdiff_parameters() -> Lines:
    whole, lora = counts.parameters(counts.base("sd2")), counts.boostdiff_lora()
    biases = counts.biases()
    shares = f"{100 * lora / whole:.1f}% and {100 * biases / whole:.2f}%"
    assert counts.biases("sd1") == biases
    return {
        "LoRA r8 on q, k, v, out of SD2.1-base": _count(1.66, lora),
        "all biases of SD2.1-base": _count(0.34, biases),
        "biases of linear layers alone": _count(0.34, counts.linear_biases()),
        "shares of the U-Net": ("0.2% and 0.04%", shares, _verdict(shares == "0.2% and 0.04%")),
        "all biases of SD1.5": ("-", f"{counts.biases('sd1'):,}", "–"),
    }


def network_sizes() -> Lines:
    full, lines = counts.parameters(counts.base("sd1")), Lines()
    for name, layers in counts.ASDM.items():
        size = counts.parameters(counts.unet("sd1", layers_per_block=layers))
        paper, agrees = ("xxxB", "yes") if name == "M2" else ("-", "–")
        lines[f"{name}, layers {layers}"] = (
            paper,
            f"{size:,} ({100 * (size / full - 1):+.1f}%)",
            agrees,
        )
    for name, changes in counts.BK.items():
        size = counts.parameters(counts.unet("sd1", **changes))
        card = next(p["unet_params"] for p in printed("bk-sdm") if p["row"] == f"BK-SDM-{name}")
        agrees = _verdict(f"{size / 1e9:.2f}B" == card)
        lines[f"BK-SDM-{name}"] = (card, f"{size:,}", agrees)
    return lines


def sun_multiplications() -> Lines:
    gmacs = counts.sun_macs() / 1e9
    text = f"{gmacs:.2f} GMACs more an evaluation, {100 * gmacs / 401.6:.1f}% of 401.6"
    return {"cost of one branch of SUN": ("less than a LoRA's", text, _verdict(gmacs <= 0))}


# ------------------------------------------------------------------------------ SUN's tables


def _sun_1(row: str, metric: str, steps: int) -> float:
    return lookup("sun-1", row=row, metric=metric, steps=str(steps))


def _hundredth(clip: str) -> Decimal:
    """LCM's CLIP score as SUN prints it: a hundredth, cut to three decimals."""
    return (Decimal(clip) / 100).quantize(Decimal("0.001"), ROUND_DOWN)


def table_1_copied() -> Lines:
    lcm = {(p["row"], p["metric"], p["steps"]): p.text for p in printed("lcm-1")}
    lines = Lines()
    for metric, as_printed, suffix in (("fid", Decimal, ""), ("clip", _hundredth, " / 100, cut")):
        cells = [
            (p.text, lcm[place])
            for p in printed("sun-1")
            if p["metric"] == metric and (place := (p["row"], metric, p["steps"])) in lcm
        ]
        equal = sum(Decimal(ours) == as_printed(theirs) for ours, theirs in cells)
        text = f"{equal} of {len(cells)} equal LCM's{suffix}"
        lines[f"{metric} at 4 and 8 steps"] = ("own runs", text, _verdict(equal == 0))
    return lines


def clip_at_12_steps() -> Lines:
    rows = dict.fromkeys(p["row"] for p in printed("sun-1"))
    gains = [_sun_1(r, "clip", 12) - _sun_1(r, "clip", 8) for r in rows]
    falls = [_sun_1(r, "fid", 8) - _sun_1(r, "fid", 12) for r in rows]
    clip = f"+{min(gains):.3f} to +{max(gains):.3f}"
    return {
        "CLIP, 8 to 12 steps": ("one set-up", clip, _verdict(min(gains) <= 0.01)),
        "FID, 8 to 12 steps": ("-", f"-{max(falls):.2f} to {-min(falls):+.2f}", "–"),
    }


def best_adapting_free() -> Lines:
    lines = Lines()
    for what, order, sign in (
        ("CLIP", ("DPM-Solver++", "SUN"), 1),
        ("FID", ("SUN", "DPM-Solver++"), -1),
    ):
        values = {row: _sun_1(row, what.lower(), 12) for row in order}
        text = ", ".join(f"{row} {value}" for row, value in values.items())
        best = sign * values["SUN"] > sign * values["DPM-Solver++"]
        lines[f"{what} at 12 steps"] = ("SUN best", text, _verdict(best))
    return lines


def dmd_anchors() -> Lines:
    lines = Lines()
    for row in ("DPM-Solver++", "LCM-LoRA"):
        ours = _sun_1(row, "fid", 4)
        anchor = lookup("dmd-4", row=row, metric="fid", steps="4")
        agrees = _verdict(abs(ours - anchor) < 1)
        lines[f"{row}, 4 steps"] = (f"{ours}", f"{anchor} (DMD)", agrees)
    return lines


def table_2_steps() -> Lines:
    steps = ", ".join(str(s) for s in sorted({p.steps for p in printed("sun-2")}))
    return {"columns": ("4, 8, 12", steps, _verdict(steps == "4, 8, 12"))}


def table_4_equals_table_2() -> Lines:
    rows = [p for p in printed("sun-4") if p["row"] == "p = 0.1"]
    equal = sum(
        p.value == lookup("sun-2", row="SUN", model=p["model"], steps=p["steps"]) for p in rows
    )
    text = f"{equal} of {len(rows)} equal"
    return {"p = 0.1 against Table 2": ("equal", text, _verdict(equal == len(rows)))}


def _seconds(row: str, hardware: str, component: str) -> float:
    return lookup("sun-3", row=row, hardware=hardware, component=component)


def table_3_speed_ups() -> Lines:
    lines = Lines()
    for hardware in ("V100", "M1Pro"):
        for part in ("unet", "pipeline"):
            base, sun = (_seconds(r, hardware, part) for r in ("DPM-Solver++ (25)", "SUN (4)"))
            text, agrees = f"{base / sun:.2f}x", _verdict(base / sun > 10)
            lines[f"{hardware}, {part}"] = ("over 10x", text, agrees)
    return lines


def table_3_reading() -> Lines:
    lines = Lines()
    for hardware in ("V100", "M1Pro"):
        gaps: dict[bool, list[float]] = {True: [], False: []}
        for p in printed("sun-3"):
            if (p["hardware"], p["component"]) == (hardware, "pipeline"):
                gap = p.value - _seconds(p["row"], hardware, "unet")
                gaps[p["cfg"] != "none"].append(gap)
        assert all(max(g) - min(g) < 0.15 * max(g) for g in gaps.values())  # regular
        text = " / ".join(f"{min(g):.3f} to {max(g):.3f} s" for g in gaps.values())
        lines[f"{hardware}, pipeline minus U-Net, with / without guidance"] = ("-", text, "–")
    return lines


def training_images() -> Lines:
    a, b = 5_000 * 32, 20_000 * 8
    text = f"{a:,} and {b:,}, {100 * a / 12e6:.1f}% of 12M"
    return {"steps x batch": ("competitive", text, _verdict(a == b))}


# ------------------------------------------------------------------------------ schedules


@cache
def _scheduler_config() -> dict[str, Any]:
    file = CONFIGS / "sd1" / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text("utf-8"))
    return {k: v for k, v in config.items() if not k.startswith("_")} | {"clip_sample": False}


def ddim_spacing() -> Lines:
    lines = Lines()
    for spacing in ("leading", "trailing"):
        scheduler = DDIMScheduler.from_config(_scheduler_config(), timestep_spacing=spacing)
        scheduler.set_timesteps(4)
        timesteps = ", ".join(str(int(t)) for t in scheduler.timesteps)
        lines[f"4 steps, {spacing}"] = ("unsaid", timesteps, "–")
    return lines


def boostdiff_weight() -> Lines:
    scheduler = DPMSolverMultistepScheduler.from_config(_scheduler_config())
    alphas = scheduler.alphas_cumprod.double().numpy()
    weight = (1 - alphas) / alphas
    share = 100 * weight[900:].sum() / weight.sum()
    text = f"{share:.1f}% on t >= 900; {weight[999]:.0f} at 999, {weight[100]:.2f} at 100"
    return {"(sigma / alpha)^2": ("constant", text, _verdict(bool(np.ptp(weight) < 1)))}


# ------------------------------------------------------------------------------ A-SDM's tables

_CARD = {"SDM-v1.4": "Stable Diffusion v1.4", "SDM-v2.1-base": "Stable Diffusion v2.1-base"}


def asdm_copied() -> Lines:
    card = {(p["row"], p["metric"]): p.value for p in printed("bk-sdm")}
    rows = [p for p in printed("a-sdm-4") if p["row"].startswith(("SDM", "BK"))]
    gaps = [abs(p.value - card[_CARD.get(p["row"], p["row"]), p["metric"]]) for p in rows]
    equal = sum(g == 0 for g in gaps)
    text = f"{equal} of {len(rows)} equal BK-SDM's card, largest gap {max(gaps):.2g}"
    own = lookup("a-sdm-2", row="SD-UNet", metric="fid")
    taken = lookup("a-sdm-4", row="SDM-v1.4", metric="fid")
    return {
        "SDM and BK rows of Table 4": ("own protocol", text, _verdict(equal == 0)),
        "FID of Stable Diffusion, Tables 2 and 4": (f"{own}", f"{taken}", _verdict(own == taken)),
    }


def asdm_condconv() -> Lines:
    lines = Lines()
    for name in ("Base", "Small", "Tiny"):
        before = lookup("a-sdm-1", row=name, metric="fid")
        after = lookup("a-sdm-1", row=f"{name}(with CondConv-e2)", metric="fid")
        text = f"{before:g} to {after:g}"
        lines[f"FID of {name}"] = ("improves", text, _verdict(after < before))
    return lines


def asdm_steps() -> Lines:
    plans = [
        p for p in printed("a-sdm-3") if p["row"] in ("S1", "S2", "S3") and p["metric"] == "fid"
    ]
    sums = ", ".join(str(int(p["first_steps"]) + int(p["second_steps"])) for p in plans)
    shared = [(r, m) for r in ("SD-UNet", "Base-UNet") for m in ("fid", "inception_score", "clip")]
    two, three = ([lookup(t, row=r, metric=m) for r, m in shared] for t in ("a-sdm-2", "a-sdm-3"))
    equal = sum(a == b for a, b in zip(two, three, strict=True))
    text = f"{equal} of {len(shared)} equal"
    m2 = [lookup("a-sdm-2", row="M2", metric=m) for m in ("fid", "inception_score")]
    name = "M2: Base_dn01+up23 + SD*_dn23+up01"
    again = [lookup("a-sdm-4", row=name, metric=m) for m in ("fid", "inception_score")]
    kept = f"{again[0]:g} and {again[1]:g}"
    return {
        "steps of S1, S2, S3": ("30", sums, _verdict(sums == "30, 30, 30")),
        "rows of Table 2 that Table 3 has too": ("another setting", text, _verdict(equal == 0)),
        "M2's FID and IS in Table 4": (f"{m2[0]:g} and {m2[1]:g}", kept, _verdict(m2 == again)),
    }


def asdm_faster() -> Lines:
    whole, lines = counts.macs(), Lines()
    for name, layers in counts.ASDM.items():
        less = 100 * (1 - counts.macs(layers_per_block=layers) / whole)
        lines[f"multiplications of {name}"] = (
            "22 %",
            f"{less:.1f} % fewer",
            _verdict(abs(less - 22) < 3),
        )
    slower = 100 * (1 - 1 / 1.22)
    lines["time at 1.22 times the speed"] = ("22 %", f"{slower:.1f} % less", "–")
    return lines


# ------------------------------------------------------------------------------ tests

EVIDENCE: dict[str, Callable[[], Lines]] = {
    "SUN's 18.5M parameters do not come out": sun_parameters,
    "Four rows of Table 1 are LCM's Table 1": table_1_copied,
    "Table 1's CLIP column at 12 steps is another set-up": clip_at_12_steps,
    '"Best FID and CLIP among adapting-free methods" fails in one cell': best_adapting_free,
    '"More than 10x" is U-Net time; whole pipelines are 7x and 8.5x faster': table_3_speed_ups,
    "Table 3 is garbled in our copy; one reading is regular": table_3_reading,
    "SUN is not faster than LCM-LoRA once that is merged": sun_multiplications,
    "Table 2 has no 12-step column": table_2_steps,
    "Table 4's row p = 0.1 is Table 2's SUN row": table_4_equals_table_2,
    "Both training set-ups see 160,000 images": training_images,
    '"DDIM, 4 steps" is two methods': ddim_spacing,
    "Independent numbers at the same guidance are worse than Table 1's": dmd_anchors,
    "LCM-LoRA's 67.5M is nearly right": lcm_lora_parameters,
    "BoostDiff's counts come out, with two readings settled": boostdiff_parameters,
    "BoostDiff's loss looks almost only at the noisiest steps": boostdiff_weight,
    "A-SDM's Table 4 copies BK-SDM's rows, measured otherwise": asdm_copied,
    "CondConv makes the largest network worse": asdm_condconv,
    "A-SDM's numbers of steps contradict each other": asdm_steps,
    '"22 % faster" fits the multiplications of M2 alone': asdm_faster,
    "Sizes of A-SDM's and BK-SDM's U-Nets": network_sizes,
}


@pytest.mark.parametrize("finding", EVIDENCE)
def test_the_report_holds_what_is_computed(finding: str):
    assert EVIDENCE[finding]() == report()[finding]


def test_every_table_of_the_report_has_its_evidence():
    assert report().keys() == EVIDENCE.keys()


def test_a_changed_number_of_a_paper_does_not_match_the_report(monkeypatch: pytest.MonkeyPatch):
    true = _seconds
    monkeypatch.setitem(
        globals(), "_seconds", lambda r, h, c: true(r, h, c) * (1 + 9 * ("25" in r))
    )
    changed = table_3_speed_ups()
    monkeypatch.undo()
    same = [what for what, line in table_3_speed_ups().items() if line == changed[what]]
    assert same == []
    assert [line[2] for line in changed.values()] == ["yes"] * 4


def test_parameter_counts():
    assert counts.sun() == 19_194_240
    assert counts.sun(add_pos=True) == 38_388_480
    assert counts.lcm_lora() == 67_252_224
    assert counts.lcm_lora(time_embedding=True) == 67_518_464
    assert counts.boostdiff_lora() == 1_659_904
    assert counts.boostdiff_lora("sd1") == 1_594_368
    biases = (counts.biases(), counts.biases("sd1"), counts.linear_biases())
    assert biases == (343_684, 343_684, 184_960)
    sizes = [counts.parameters(counts.unet("sd1", **c)) for c in counts.BK.values()]
    assert sizes == [579_384_964, 482_346_884, 323_384_964]
    assert abs(counts.sun_macs() / 1e9 - 3.25) < 0.01


def test_no_choice_of_layers_gives_the_papers_count():
    below, above = counts.nearest_subset(18_500_000)
    assert below < 18_450_000
    assert above > 18_550_000
    assert 19_169_280 in counts.subsets(0)
    assert 17_203_200 in counts.subsets(0)  # without the mid block


def test_ratios_and_equalities():
    assert table_3_speed_ups()["V100, unet"][1] == "11.53x"
    assert table_3_speed_ups()["V100, pipeline"][1] == "7.05x"
    assert table_3_speed_ups()["M1Pro, pipeline"][1] == "8.50x"
    copied = table_1_copied()
    assert copied["fid at 4 and 8 steps"][1] == "8 of 8 equal LCM's"
    assert copied["clip at 4 and 8 steps"][1] == "8 of 8 equal LCM's / 100, cut"
    assert clip_at_12_steps()["CLIP, 8 to 12 steps"][1] == "+0.023 to +0.042"
    assert table_4_equals_table_2()["p = 0.1 against Table 2"][1] == "4 of 4 equal"
    assert ddim_spacing()["4 steps, leading"][1] == "751, 501, 251, 1"
    assert boostdiff_weight()["(sigma / alpha)^2"][1].startswith("62.5% on t >= 900")
