"""Tables of the timing pass: latency, speed-ups with their doubts, throughput and memory."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sunbench.report.data import ROLE_NAMES, CellTime, reference_time, speed_up
from sunbench.report.formats import Table
from sunbench.report.texts import evaluations
from sunbench.store.timings import Spread, TimingRow

SPEED_UP = "speed-up"
FLAG = " †"


def time_table(times: Sequence[CellTime]) -> Table:
    """Latency per image at batch 1, and how many times as fast as the reference."""
    head = ["method", "steps", "NFE", "end to end ms", "U-Net ms", SPEED_UP, "U-Net speed-up"]
    lines = []
    for t in times:
        if t.role in ("floor", "source"):
            continue
        gain = speed_up(t, reference_time(times, t.model))
        mark = FLAG if gain is not None and gain.flag else ""
        both = (None, None) if gain is None else (gain.end_to_end, gain.unet)
        ups = ["–" if x is None else f"{x:.2f}x{mark}" for x in both]
        name = ROLE_NAMES.get(t.role, t.method)
        ms = [f"{x:.2f}" for x in (t.latency_ms, t.unet_ms)]
        lines.append([name, str(t.steps), evaluations(t.method, t.nfe, 4), *ms, *ups])
    return head, lines


def flags(times: Sequence[CellTime]) -> list[str]:
    """Each reason to doubt a speed-up, with the methods whose it is."""
    doubted: dict[str, list[str]] = {}
    own = [t for t in times if t.role == "candidate"]
    for t in own:
        gain = speed_up(t, reference_time(times, t.model))
        for reason in gain.flag.split("; ") if gain is not None and gain.flag else []:
            doubted.setdefault(reason, []).append(f"{t.method} at {t.steps} steps")
    return [
        f"{'every method' if len(names) == len(own) > 1 else ', '.join(names)}: {reason}"
        for reason, names in doubted.items()
    ]


def throughput_table(rows: Sequence[TimingRow]) -> Table:
    """Images per second and peak memory of each method at each batch size that was timed."""
    head = ["method", "steps", "batch", "ms per batch", "images per second", "peak MB", "rounds"]
    lines = []
    for row in rows:
        ms, speed = row.latency_ms, row.images_per_second
        peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"
        mark = FLAG if row.flags else ""
        lines.append(
            [
                ROLE_NAMES.get(row.role, row.method),
                *(str(row.steps), str(row.batch)),
                f"{ms.median:.2f} [{ms.low:.2f}, {ms.high:.2f}]{mark}",
                f"{speed.median:.2f}{mark}",
                *(peak, str(row.rounds)),
            ]
        )
    return head, lines


def timing_frame(rows: Sequence[TimingRow]) -> pd.DataFrame:
    """Every timing row, flat and with full precision: medians and quartiles."""
    records = []
    for r in rows:
        spreads: dict[str, Spread | None] = {"latency_ms": r.latency_ms, "unet_ms": r.unet_ms}
        spreads |= {"images_per_second": r.images_per_second}
        spreads |= {"speed_up": r.speed_up, "unet_speed_up": r.unet_speed_up}
        names = ("model", "method", "role", "steps", "task", "resolution", "batch", "nfe")
        record = {n: getattr(r, n) for n in (*names, "level", "rounds", "nfe_ratio", "peak_bytes")}
        for name, values in spreads.items():
            low, high = (None, None) if values is None else (values.low, values.high)
            record[name] = None if values is None else values.median
            record |= {f"{name}_low": low, f"{name}_high": high}
        machine = {n: getattr(r.machine, n) for n in ("device", "dtype", "threads", "other_cpus")}
        records.append({**record, **machine, "flags": "; ".join(r.flags)})
    return pd.DataFrame(records, dtype=object)
