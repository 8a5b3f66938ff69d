"""A tiny world, one finished run of it, and copies of both: fixtures for conftest files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_sd


@dataclass(frozen=True)
class Lab:
    """A cache and a folder for runs, in a tiny world."""

    world: Any
    cache: Path
    out: Path

    def request(self, **changes: Any) -> Any:
        """20 images: 10 prompts x 2 seeds, five shards of four a cell; one cell is out of reach."""
        from sunbench.bench import Request

        settings: dict[str, Any] = {
            "models": (str(self.world.card),),
            "methods": ("ddim", "dpm++"),
            "steps": (2, 1001),
            "images": 20,
            "seeds": (0, 1),
            "batch": 4,
        }
        return Request(**{**settings, **changes})

    def run(self, name: str = "run", **changes: Any) -> Any:
        """Execute a request; returns the outcome."""
        from sunbench.bench.run import execute
        from sunbench.report.tables import write_tables
        from sunbench.store import RunFolder

        outcome = execute(self.request(**changes), self.out / name)
        write_tables(RunFolder(self.out / name))
        return outcome

    def tables(self, name: str = "run") -> dict[str, bytes]:
        """The tables that equal runs share, byte for byte."""
        folder = self.out / name / "tables"
        return {f.name: f.read_bytes() for f in sorted(folder.glob("[rp]*"))}

    def cell(self, method: str = "ddim", name: str = "run") -> Any:
        """The store of a candidate."""
        from sunbench.store import CellStore

        stores = [CellStore.open(p.parent) for p in (self.out / name).glob("cells/*/cell.json")]
        return next(s for s in stores if s.content["method"] == method)

    def reference(self, *, floor: bool = False) -> Any:
        """The store of the reference, or of its floor."""
        from sunbench.store import CellStore

        stores = [CellStore.open(p.parent) for p in self.cache.glob("reference_sets/*/cell.json")]
        return next(s for s in stores if (min(s.content["seeds"]) > 0) == floor)


@pytest.fixture(scope="session")
def world(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.World.write(tmp_path_factory.mktemp("world"))


def _lab(world: Any, root: Path, patch: pytest.MonkeyPatch) -> Lab:
    patch.setenv("SUNBENCH_CACHE", str(root / "cache"))
    tiny_sd.settle(world, patch.setattr)
    return Lab(world, root / "cache", root / "out")


@pytest.fixture(scope="session")
def finished(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache and the out folder of one finished run."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        _lab(world, root, patch).run()
    return root


@pytest.fixture
def lab(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Nothing made yet."""
    return _lab(world, tmp_path, monkeypatch)


@pytest.fixture
def done(finished: Path, lab: Lab) -> Lab:
    """A copy of the finished run."""
    root = lab.cache.parent
    for part in ("cache", "out"):
        shutil.copytree(finished / part, root / part)
    shutil.rmtree(root / "cache/shards")  # it names the shards of the original
    return lab
