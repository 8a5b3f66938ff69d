"""Where a run was measured: versions, processor, memory. No host names, no paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from sunbench import __version__
from sunbench.store import EnvironmentRecord

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "peft", "numpy", "scipy", "pillow")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def environment() -> EnvironmentRecord:
    """Everything about this machine that may matter to a number."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return EnvironmentRecord(
        sunbench=__version__,
        python=platform.python_version(),
        system=platform.system(),
        packages={p: _version(p) for p in PACKAGES},
        processor=_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=tuple(gpus),
    )
