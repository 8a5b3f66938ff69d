"""A tiny world with three models, and one finished sun-2 table of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import random_weights
import tiny_sd

ASKED = ["--images", "20", "--seeds", "2", "--batch", "4", "--device", "cpu"]
NAMES = ("one", "two", "three")


@dataclass(frozen=True)
class Lab:
    """A cache, a working folder, and the cards of three models."""

    root: Path
    cards: tuple[str, ...]
    weights: Path
    call: Callable[..., tuple[int, str, str]]

    @property
    def models(self) -> str:
        return ",".join(self.cards)

    def table(self, name: str, *words: str) -> tuple[int, str, str]:
        return self.call("paper", name, *words)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("paper-world")
    tiny_world = tiny_sd.World.write(root)
    text = tiny_world.card.read_text()
    for name in NAMES:
        (root / f"{name}.toml").write_text(text.replace('name = "tiny"', f'name = "{name}"'))
    return tiny_world


def settle(world: Any, cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SUNBENCH_CACHE", str(cache))
    patch.setenv("COLUMNS", "400")
    tiny_sd.settle(world, patch.setattr)


def invoke(patch: pytest.MonkeyPatch, *words: str) -> int:
    from sunbench.cli import main

    patch.setattr(sys, "argv", ["sunbench", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture(scope="session")
def finished(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the cache and the run of one whole sun-2 table."""
    root = tmp_path_factory.mktemp("paper-finished")
    cards = ",".join(str(world.card.with_name(f"{n}.toml")) for n in NAMES)
    with pytest.MonkeyPatch.context() as patch:
        settle(world, root / "cache", patch)
        patch.chdir(root)
        assert invoke(patch, "paper", "sun-2", "--models", cards, *ASKED) == 0
    return root


@pytest.fixture
def lab(
    world: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Lab:
    """Nothing made yet."""
    cards = tuple(str(world.card.with_name(f"{n}.toml")) for n in NAMES)
    return in_world(world, cards, tmp_path, monkeypatch, capsys)


def in_world(
    world: Any,
    cards: tuple[str, ...],
    root: Path,
    patch: pytest.MonkeyPatch,
    captured: pytest.CaptureFixture[str],
) -> Lab:
    settle(world, root / "cache", patch)
    patch.chdir(root)

    def call(*words: str) -> tuple[int, str, str]:
        code = invoke(patch, *words)
        said = captured.readouterr()
        return code, said.out, said.err

    return Lab(root, cards, world.weights, call)


@pytest.fixture
def four_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Lab:
    """One model of four stages, and the zoo's weights of two of its networks."""
    tiny_world = tiny_sd.World.write(tmp_path)
    pipe = tiny_sd.pipeline(tmp_path / "deep-words", **tiny_sd.DEEP)
    pipe.save_pretrained(tmp_path / "tiny")
    random_weights.pruned(pipe.unet, tiny_world.weights / "bk-sdm-base.safetensors", 1, cut="base")
    random_weights.pruned(pipe.unet, tiny_world.weights / "a-sdm-m1.safetensors", 2, cut="m1")
    return in_world(tiny_world, (str(tiny_world.card),), tmp_path, monkeypatch, capsys)


@pytest.fixture
def done(finished: Path, lab: Lab) -> Lab:
    """A copy of the finished table."""
    for part in ("cache", "runs"):
        shutil.copytree(finished / part, lab.root / part)
    return lab
