"""Timing rows of known seconds, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from sunbench.store.timings import Spread, TimingMachine, TimingRow

MACHINE = TimingMachine(
    "a CPU", "float32", "channels_last", 2, 2, False, True, 0.0, 1.0, 0.0, {}, {}, {"torch": "2"}
)


def timing_row(
    model: str,
    method: str,
    role: Any,
    steps: int,
    nfe: float,
    seconds: tuple[float, float, float, float],
    **changes: Any,
) -> TimingRow:
    """A row of three equal rounds; seconds: text, sampler, U-Net, decoder."""
    text, sampler, unet, decoder = ((s,) * 3 for s in seconds)
    gain = Spread(1.0, 1.0, 1.0) if role == "reference" else None
    settings: dict[str, Any] = {
        **{"model": model, "method": method, "role": role, "steps": steps, "nfe": nfe},
        **{"task": "text2image", "resolution": 16, "guidance_scale": 3.0, "batch": 1},
        **{"level": "full", "warm_up": 1, "text_seconds": text, "sampler_seconds": sampler},
        **{"unet_seconds": unet, "decoder_seconds": decoder, "speed_up": gain},
        **{"unet_speed_up": gain, "nfe_ratio": None, "peak_bytes": 2 * 10**8, "memory": "rss"},
        **{"flags": (), "machine": MACHINE},
    }
    return TimingRow(**{**settings, **changes})
