"""A folder in which every place that the pages name is there: tiny models, files, runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sd
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]

#: Places in the pages, and what stands there while their commands run.
PLACEHOLDERS: dict[str, str] = {
    "./my-finetune": "pipeline",
    "./my-base": "pipeline",
    "./downloaded.safetensors": "single file",
    "./my-card.toml": "card",
    "mine.csv": "prompts",
    "my-tolerances.toml": "tolerances",
    "sun-run/sun.safetensors": "adapter",
    "runs/latest": "run",
    "nightly": "run",
    "baseline": "baseline",
}


def _write_zoo(tiny: Path, weights: Path) -> None:
    """The tiny pipeline in the place of every zoo model."""
    from sunbench.zoo import SHARED, names

    for part in SHARED:
        shutil.copytree(tiny / part, weights / part)
    for name in names():
        shutil.copytree(tiny / "unet", weights / f"unet-{name}")
    shutil.copyfile(tiny / "model_index.json", weights / "model_index.json")


def _write_run(world: Any) -> None:
    from sunbench.bench import Request
    from sunbench.bench.run import execute
    from sunbench.report.tables import write_tables
    from sunbench.store import RunFolder

    models, metrics = (str(world.card),), ("perceptual[zoo-clip]",)
    methods, steps = ("ddim", "dpm++"), (2,)
    request = Request(models, methods, steps, images=8, seeds=(0,), metrics=metrics, batch=8)
    execute(request, Path("runs/latest"))
    write_tables(RunFolder(Path("runs/latest")))


def _write_adapter(words: Path, zoo: Path) -> None:
    from sunbench.methods.sun import SunAdapter, write_adapter

    unet = tiny_sd.pipeline(words).unet
    Path("sun-run").mkdir()
    write_adapter(SunAdapter.for_unet(unet, init="random", alpha0=0.5), "sun-run/sun.safetensors")
    shutil.copyfile("sun-run/sun.safetensors", zoo / "sun.safetensors")


def _write_files() -> None:
    Path("mine.csv").write_text(
        "caption,negative\n" + "".join(f"a cat {i},dog\n" for i in range(9))
    )
    Path("my-card.toml").write_text('name = "my-model"\nsource = "hub"\nid = "owner/name"\n')
    Path("my-tolerances.toml").write_text("[fd]\nabsolute = 1e-3\nrelative = 0.05\n")
    shapes = {"input_blocks.0.0.weight": (320, 4, 3, 3), "a.attn2.to_k.weight": (1, 768)}
    layers = {f"model.diffusion_model.{k}": np.zeros(s, np.float32) for k, s in shapes.items()}
    save_file(layers, "downloaded.safetensors")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every place that the pages name is there, with a cache of its own."""
    from sunbench.regression.compare import save_baseline

    root = tmp_path_factory.mktemp("docs")
    (root / "world").mkdir()
    world = tiny_sd.World.write(root / "world")
    _write_zoo(root / "world" / "tiny", world.weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNBENCH_CACHE", str(root / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        tiny_sd.settle(world, patch.setattr)
        (root / "here").mkdir()
        patch.chdir(root / "here")
        for name in ("my-finetune", "my-base"):
            Path(name).symlink_to(root / "world" / "tiny")
        _write_files()
        _write_adapter(root / "words", world.weights)
        _write_run(world)
        shutil.copytree("runs/latest", "nightly")
        save_baseline(Path("runs/latest"), Path("baseline"))
        assert all(Path(name).exists() for name in PLACEHOLDERS)
        yield root / "here"
