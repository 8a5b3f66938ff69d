"""What the audit recomputes within the papers' tables: ratios, sums, equalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import ROUND_DOWN, Decimal

from sunbench.paper.check import Check
from sunbench.paper.network_checks import mac_checks, parameter_checks, schedule_checks
from sunbench.paper.numbers import lookup, printed

# ------------------------------------------------------------------------------ SUN's tables


def _cut(value: str) -> Decimal:
    """LCM's CLIP as SUN prints it: a hundredth, cut to three decimals."""
    return (Decimal(value) / 100).quantize(Decimal("0.001"), ROUND_DOWN)


def table_1_checks() -> Iterator[Check]:
    """What Table 1 shares with LCM's, and its last column."""
    theirs = {(p["row"], p["metric"], p["steps"]): p for p in printed("lcm-1")}
    mine = [p for p in printed("sun-1") if (p["row"], p["metric"], p["steps"]) in theirs]
    for metric, same in (("fid", Decimal), ("clip", _cut)):
        own = [p for p in mine if p["metric"] == metric]
        equal = sum(Decimal(p.text) == same(theirs[p["row"], metric, p["steps"]].text) for p in own)
        text = f"{equal} of {len(own)} equal LCM's" + (" / 100, cut" if metric == "clip" else "")
        yield Check(
            "sun-table-1-copied", f"{metric} at 4 and 8 steps", "own runs", text, equal == 0, False
        )
    rows = dict.fromkeys(p["row"] for p in printed("sun-1"))
    jumps = [_sun_1(r, "clip", 12) - _sun_1(r, "clip", 8) for r in rows]
    falls = [_sun_1(r, "fid", 8) - _sun_1(r, "fid", 12) for r in rows]
    text = f"+{min(jumps):.3f} to +{max(jumps):.3f}"
    yield Check("sun-clip-12", "CLIP, 8 to 12 steps", "one set-up", text, min(jumps) <= 0.01, False)
    text = f"-{max(falls):.2f} to {-min(falls):+.2f}"
    yield Check("sun-clip-12", "FID, 8 to 12 steps", "-", text, True, True)
    dpm, sun = _sun_1("DPM-Solver++", "clip", 12), _sun_1("SUN", "clip", 12)
    yield Check(
        "sun-adapting-free",
        "CLIP at 12 steps",
        "SUN best",
        f"DPM-Solver++ {dpm}, SUN {sun}",
        sun > dpm,
        False,
    )
    best = _sun_1("SUN", "fid", 12) < _sun_1("DPM-Solver++", "fid", 12)
    yield Check(
        "sun-adapting-free",
        "FID at 12 steps",
        "SUN best",
        "SUN 11.98, DPM-Solver++ 12.03",
        best,
        True,
    )
    ours, anchor = (
        _sun_1("DPM-Solver++", "fid", 4),
        lookup("dmd-4", row="DPM-Solver++", metric="fid"),
    )
    yield Check(
        "dmd-anchors",
        "DPM-Solver++, 4 steps",
        f"{ours}",
        f"{anchor} (DMD)",
        abs(ours - anchor) < 1,
        False,
    )
    ours = _sun_1("LCM-LoRA", "fid", 4)
    anchor = lookup("dmd-4", row="LCM-LoRA", metric="fid", steps="4")
    yield Check(
        "dmd-anchors",
        "LCM-LoRA, 4 steps",
        f"{ours}",
        f"{anchor} (DMD)",
        abs(ours - anchor) < 1,
        False,
    )


def _sun_1(row: str, metric: str, steps: int) -> float:
    return lookup("sun-1", row=row, metric=metric, steps=str(steps))


def table_2_checks() -> Iterator[Check]:
    """Columns of Table 2, and its overlap with Table 4."""
    steps = ", ".join(str(s) for s in sorted({p.steps for p in printed("sun-2")}))
    yield Check("sun-table-2-12-steps", "columns", "4, 8, 12", steps, steps == "4, 8, 12", False)
    rows = [p for p in printed("sun-4") if p["row"] == "p = 0.1"]
    same = sum(
        p.value == lookup("sun-2", row="SUN", model=p["model"], steps=p["steps"]) for p in rows
    )
    text = f"{same} of {len(rows)} equal"
    yield Check(
        "sun-table-4-same", "p = 0.1 against Table 2", "equal", text, same == len(rows), True
    )


def _seconds(row: str, hardware: str, component: str) -> float:
    return lookup("sun-3", row=row, hardware=hardware, component=component)


def table_3_checks() -> Iterator[Check]:
    """Speed-ups and the overhead of the pipeline."""
    for hardware in ("V100", "M1Pro"):
        for part, known in (("unet", True), ("pipeline", False)):
            base, sun = (_seconds(r, hardware, part) for r in ("DPM-Solver++ (25)", "SUN (4)"))
            gain = base / sun
            yield Check(
                "sun-speed-up", f"{hardware}, {part}", "over 10x", f"{gain:.2f}x", gain > 10, known
            )
        yield _overhead(hardware)


def _overhead(hardware: str) -> Check:
    by_kind: dict[bool, list[float]] = {True: [], False: []}
    for p in printed("sun-3"):
        if (p["hardware"], p["component"]) == (hardware, "pipeline"):
            gap = p.value - _seconds(p["row"], hardware, "unet")
            by_kind[p["cfg"] == "none"].append(gap)
    text = " / ".join(f"{min(g):.3f} to {max(g):.3f} s" for g in (by_kind[False], by_kind[True]))
    regular = all(max(g) - min(g) < 0.15 * max(g) for g in by_kind.values())
    what = f"{hardware}, pipeline minus U-Net, with / without guidance"
    return Check("sun-table-3-reading", what, "-", text, regular, True)


def training_checks() -> Iterator[Check]:
    """Pictures seen by the two machines."""
    a, b = 5_000 * 32, 20_000 * 8
    text = f"{a:,} and {b:,}, {100 * a / 12e6:.1f}% of 12M"
    yield Check("sun-samples", "steps x batch", "competitive", text, a == b, True)


# ------------------------------------------------------------------------------ A-SDM's tables

_CARD = {
    "SDM-v1.4": "Stable Diffusion v1.4",
    "SDM-v2.1-base": "Stable Diffusion v2.1-base",
}


def asdm_checks() -> Iterator[Check]:
    """Rows that A-SDM took over, and where CondConv helps."""
    theirs = {(p["row"], p["metric"]): p.value for p in printed("bk-sdm")}
    rows = [p for p in printed("asdm-4") if p["row"].startswith(("SDM", "BK"))]
    gaps = [abs(p.value - theirs[_CARD.get(p["row"], p["row"]), p["metric"]]) for p in rows]
    equal = sum(g == 0 for g in gaps)
    text = f"{equal} of {len(rows)} equal BK-SDM's card, largest gap {max(gaps):.2g}"
    yield Check(
        "asdm-copied", "SDM and BK rows of Table 4", "own protocol", text, equal == 0, False
    )
    own, card = (
        lookup("asdm-2", row="SD-UNet", metric="fid"),
        lookup("asdm-4", row="SDM-v1.4", metric="fid"),
    )
    yield Check(
        "asdm-copied",
        "FID of Stable Diffusion, Tables 2 and 4",
        f"{own}",
        f"{card}",
        own == card,
        False,
    )
    for name, known in (("Base", False), ("Small", True), ("Tiny", True)):
        before = lookup("asdm-1", row=name, metric="fid")
        after = lookup("asdm-1", row=f"{name}(with CondConv-e2)", metric="fid")
        text = f"{before:g} to {after:g}"
        yield Check("asdm-condconv", f"FID of {name}", "improves", text, after < before, known)


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    parameter_checks,
    mac_checks,
    table_1_checks,
    table_2_checks,
    table_3_checks,
    training_checks,
    schedule_checks,
    asdm_checks,
)


def checks() -> list[Check]:
    """Every recomputed line."""
    return [c for group in CHECKS for c in group()]
