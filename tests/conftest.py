"""What tests of several packages are given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import psutil
import pytest
import random_weights
import tiny_sd

# A console keeps the width that it finds when it is made; tests set their own, and tox sets 80.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)
import sunbench.cli.console  # noqa: F401

# No deadlines and the same examples everywhere: machines differ in speed.
hypothesis.settings.load_profile("ci")

#: Memory of one test process, by which their number is limited where there is little.
WORKER_BYTES = 2 * 2**30


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of ``pytest -n auto``: one per core that may be used, at most eight."""
    asked = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", "")
    if asked.isdecimal():
        return int(asked)
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, 8, psutil.virtual_memory().available // WORKER_BYTES))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this test process alone; tests that fill or break one have another still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNBENCH_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        yield


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module of the small world of random weights."""
    return tiny_sd


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pipeline that tests may not change: what they patch, they copy."""
    return tiny_sd.pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def distilled(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of every distilled method for the tiny pipeline: method -> path."""
    return random_weights.write(pipeline.unet, tmp_path_factory.mktemp("distilled"))


@pytest.fixture(scope="session")
def weights(
    pipeline: Any, distilled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The same and a random SUN adapter, as a run is given them: method -> path."""
    from sunbench.methods.sun import SunAdapter, write_adapter

    path = tmp_path_factory.mktemp("sun") / "sun.safetensors"
    write_adapter(SunAdapter.for_unet(pipeline.unet, init="random", alpha0=0.5), path)
    return {"sun": str(path), **{name: str(p) for name, p in distilled.items()}}


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pipeline whose U-Net has Stable Diffusion's layout; tests copy what they patch."""
    return tiny_sd.pipeline(tmp_path_factory.mktemp("deep"), **tiny_sd.DEEP)


@pytest.fixture(scope="session")
def deep_weights(deep: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights of every pruned and assembled network for it: method -> path."""
    paths = random_weights.networks(deep.unet, tmp_path_factory.mktemp("networks"))
    return {name: str(path) for name, path in paths.items()}
