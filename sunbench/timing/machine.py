"""The machine of a timing pass: device, clocks, and how much other processes use it meanwhile."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from dataclasses import dataclass

import psutil
import torch

_GPU_FIELDS = (
    "utilization.gpu",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "temperature.gpu",
)


def processor_name() -> str:
    """The processor's model, or its architecture where the system does not tell it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = (line.partition(":") for line in file if line.startswith("model name"))
            return next((name.strip() for _, _, name in lines), platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


# ------------------------------------------------------------------------------ clocks


def gpu_clocks(device: torch.device) -> dict[str, str]:
    """What nvidia-smi tells of a GPU now; {} where it cannot be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    place = f"--id=GPU-{uuid}" if uuid is not None else "--id=0"
    command = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader", place]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_GPU_FIELDS, (x.strip() for x in answer.stdout.split(",")), strict=False))


def cpu_clock() -> dict[str, str]:
    """The processor's MHz now and at most; {} where the system does not tell."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return {}
    if frequency is None:
        return {}
    values = {"mhz": round(frequency.current), "max_mhz": round(frequency.max)}
    return {name: str(mhz) for name, mhz in values.items() if mhz}


def clocks(device: torch.device) -> dict[str, str]:
    """The clocks that matter to a device."""
    return gpu_clocks(device) if device.type == "cuda" else cpu_clock()


# ------------------------------------------------------------------------------ load


def available_cpus() -> list[int]:
    """Numbers of the CPUs that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return list(process.cpu_affinity())
    return list(range(psutil.cpu_count() or 1))


def _busy_seconds(cpus: list[int]) -> float:
    """Seconds that these CPUs have worked since the system started, for whomever."""
    times = psutil.cpu_times(percpu=True)
    chosen = [times[i] for i in cpus if i < len(times)]
    return sum(sum(t) - t.idle - getattr(t, "iowait", 0.0) - _counted_twice(t) for t in chosen)


def _counted_twice(times: object) -> float:
    """Time of guests, which Linux counts in user and nice too."""
    return float(getattr(times, "guest", 0.0)) + float(getattr(times, "guest_nice", 0.0))


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


@dataclass(frozen=True)
class LoadMeter:
    """Where the CPUs' and this process's clocks stood at one moment."""

    cpus: list[int]
    wall: float
    busy: float
    own: float

    @classmethod
    def start(cls) -> LoadMeter:
        """Read them now."""
        cpus = available_cpus()
        return cls(cpus, time.perf_counter(), _busy_seconds(cpus), _own_seconds())

    def other_cpus(self) -> float:
        """CPUs, of those available, that other processes have kept busy since; on average."""
        wall = time.perf_counter() - self.wall
        other = (_busy_seconds(self.cpus) - self.busy) - (_own_seconds() - self.own)
        return min(max(other / wall, 0.0), len(self.cpus)) if wall > 0 else 0.0
