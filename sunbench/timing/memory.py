"""The most memory that a block of work held: the device's on CUDA, else the process's.

The resident set of a process includes what its allocator keeps of earlier work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_kind(device: torch.device) -> Literal["cuda", "rss"]:
    """What ``peak_bytes`` counts: ``cuda`` allocations, or the process's resident set, ``rss``."""
    return "cuda" if device.type == "cuda" else "rss"


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int | None:
    """Do some work; the most bytes held meanwhile, None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    known = _reset_peak_rss()
    work()
    return _peak_rss() if known else None


def _reset_peak_rss() -> bool:
    """Let Linux begin a new peak of the resident set (proc(5): 5 to clear_refs)."""
    try:
        _RESET.write_text("5", "ascii")
    except OSError:
        return False
    return True


def _peak_rss() -> int | None:
    for line in _STATUS.read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
