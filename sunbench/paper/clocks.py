"""Device, dtype and clocks of a timing: a number of seconds means nothing without them."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import psutil
import torch

_FIELDS = ("name", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")


def gpu_clocks() -> dict[str, str]:
    """What nvidia-smi says of the first GPU now; {} where it cannot be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_FIELDS, (x.strip() for x in done.stdout.split(",")), strict=False))


def cpu_clock() -> dict[str, float]:
    """MHz now and at most; {} where the system does not say."""
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return {}
    if found is None:
        return {}
    told = {"mhz": round(found.current), "max_mhz": round(found.max)}
    return {name: mhz for name, mhz in told.items() if mhz}


def clocks(device: torch.device) -> dict[str, Any]:
    """The clocks that matter to a device."""
    return gpu_clocks() if device.type == "cuda" else dict(cpu_clock())


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    from sunbench.bench.environment import environment

    return f"{environment()['processor']}, {torch.get_num_threads()} threads"
