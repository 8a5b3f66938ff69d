"""`sunbench compare` catches what was planted and passes what is honest."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sunbench.bench import Request
from sunbench.bench.run import execute
from sunbench.bench.runner import Runner
from sunbench.errors import UserError
from sunbench.regression.compare import RunComparison, compare, save_baseline
from sunbench.regression.compare_page import comparison_markdown

batch_module = importlib.import_module("sunbench.sampling.batch")
ddim_module = importlib.import_module("sunbench.methods.ddim")
runner_module = importlib.import_module("sunbench.bench.runner")

#: 12 images per cell: 6 prompts x 2 seeds.
SETTINGS: dict[str, Any] = {
    "methods": ("ddim", "dpm++"),
    "steps": (2,),
    "images": 12,
    "seeds": (0, 1),
    "batch": 4,
}
PAIRED = {"perceptual[zoo-clip]", "ssim", "psnr"}


@dataclass(frozen=True)
class Saved:
    """An honest run with the cache it was made with, and the light baseline made of it."""

    run: Path
    light: Path
    cache: Path


@pytest.fixture(scope="module")
def saved(tiny: Any, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    root = tmp_path_factory.mktemp("saved")
    paths = Saved(root / "run", root / "light", root / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNBENCH_CACHE", str(paths.cache))
        tiny.settle(world, patch.setattr)
        execute(Request(models=(str(world.card),), **SETTINGS), paths.run)
        save_baseline(paths.run, paths.light)
    return paths


@pytest.fixture
def quick(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One shard per cell, one batch per shard."""
    monkeypatch.setattr("sunbench.sampling.cell.SHARD_SIZE", 12)
    monkeypatch.setitem(SETTINGS, "batch", 12)
    return lab


def gate(lab: Any, saved: Saved, **changes: Any) -> RunComparison:
    """Run the request again in another cache and compare it with the light baseline."""
    lab.run(**{**SETTINGS, **changes})
    return compare(saved.light, lab.out / "run")


def worse(comparison: RunComparison, method: str) -> set[str]:
    rows = [v.row for v in comparison.of("worse")]
    return {r.metric for r in rows if method == (r.method if r.role == "candidate" else r.role)}


# ------------------------------------------------------------------------------ honest

HONEST = [(3, 4), (4, 4), (5, 6), (7, 8), (8, 12), (3, 7), (4, 12), (5, 12), (7, 12), (8, 3)]


@pytest.mark.parametrize(("batch", "shard"), HONEST)
def test_honest_run_passes(
    lab: Any, saved: Saved, batch: int, shard: int, monkeypatch: pytest.MonkeyPatch
):
    """Another batch size; of every second one the shards are made last to first."""
    monkeypatch.setattr("sunbench.sampling.cell.SHARD_SIZE", shard)
    if (batch + shard) % 2:
        real = Runner._sample

        def last_first(
            self: Any, handle: Any, reference: Any, missing: list[int], *rest: Any
        ) -> None:
            real(self, handle, reference, missing[::-1], *rest)

        monkeypatch.setattr(Runner, "_sample", last_first)
    comparison = gate(lab, saved, batch=batch)
    assert {v.verdict for v in comparison.verdicts} == {"same"}, comparison_markdown(comparison)
    assert comparison.problems == ()
    assert comparison.exit_code() == 0
    by_pairs = [v for v in comparison.verdicts if "by pairs" in v.why]
    # clip_score of reference and floor; five pairs of the floor; six per candidate
    assert len(by_pairs) == 2 + 5 + 2 * 6


def test_a_run_is_the_same_as_itself(saved: Saved, lab: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUNBENCH_CACHE", str(saved.cache))
    for baseline in (saved.run, saved.light):
        comparison = compare(baseline, saved.run)
        assert {v.verdict for v in comparison.verdicts} == {"same"}
        assert {v.change.value for v in comparison.verdicts if v.change is not None} == {0.0}
        assert comparison.changes == ()


# ------------------------------------------------------------------------------ planted


def test_wrong_timestep_spacing(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    leading = replace(ddim_module.ddim_leading(), name="ddim")
    monkeypatch.setattr(ddim_module, "ddim", lambda: leading)
    comparison = gate(quick, saved)
    assert worse(comparison, "ddim") >= PAIRED
    assert worse(comparison, "dpm++") == worse(comparison, "reference") == set()
    assert comparison.exit_code() == 1
    assert any("timestep_spacing" in c and "trailing" in c for c in comparison.changes)


def test_swapped_vae(quick: Any, saved: Saved, tiny: Any, tmp_path: Path):
    other_pipe = tiny.pipeline(tmp_path / "words")
    other_pipe.vae = tiny.pipeline(tmp_path / "words", seed=7).vae
    other_pipe.save_pretrained(tmp_path / "other")
    lines = quick.world.card.read_text().splitlines()
    card = tmp_path / "other.toml"
    card.write_text("\n".join(x if x[:4] != "id =" else f'id = "{tmp_path}/other"' for x in lines))
    comparison = gate(quick, saved, models=(str(card),))
    assert "clip_score[zoo-clip]" in worse(comparison, "reference")
    assert any("the reference itself moved" in v.why for v in comparison.of("worse"))
    assert comparison.exit_code() == 1
    assert any(c.startswith("weights.vae: ") for c in comparison.changes)
    assert not any(c.startswith("weights.unet: ") for c in comparison.changes)


def test_pairs_of_other_noise(quick: Any, saved: Saved):
    """The rows of a stored cell permuted and sealed again."""
    quick.run(**SETTINGS)
    store = quick.cell("ddim")
    rows = store.read_rows(0, images=True)
    features = {n: store.read_features(0, n)[::-1].copy() for n in store.feature_names(0)}
    turned = [replace(b, index=a.index) for a, b in zip(rows, rows[::-1], strict=True)]
    store.write_shard(0, turned, features)
    comparison = compare(saved.light, quick.out / "run")
    assert comparison.exit_code() == 2
    assert any("expected its reference's prompt" in p for p in comparison.problems)
    with pytest.raises(UserError, match="cannot be a baseline"):
        save_baseline(quick.out / "run", quick.out / "light")


def test_pairs_of_other_pictures(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    """Paired metrics of images in another order, which no hash tells of."""
    real = Runner._paired

    def turned(self: Any, cell: Any, rows: Any, pairable: Any, reference: Any, k: int) -> Any:
        other = pairable | {"images": pairable["images"].flip(0)}
        return real(self, cell, rows, other, reference, k)

    monkeypatch.setattr(Runner, "_paired", turned)
    comparison = gate(quick, saved)
    assert worse(comparison, "ddim") >= PAIRED
    assert comparison.exit_code() == 1


def test_floor_of_the_references_seeds(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sunbench.bench.cells.FLOOR_OFFSET", 0)
    comparison = gate(quick, saved)
    assert comparison.exit_code() == 2
    assert any("the floor shares seeds [0, 1]" in p for p in comparison.problems)


def test_noise_that_ignores_the_seed(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    real = batch_module.image_generator
    monkeypatch.setattr(batch_module, "image_generator", lambda i: real(replace(i, seed=0)))
    comparison = gate(quick, saved)
    assert comparison.exit_code() == 2
    assert any("6 images start from another image's noise" in p for p in comparison.problems)
    assert any("the floor shares the noise of 6 images" in p for p in comparison.problems)


def test_floor_of_the_references_pictures(
    quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch
):
    """Under seeds and noise hashes of its own."""
    real = runner_module.generate

    def shared(cell: Any, *rest: Any) -> Any:
        own = real(cell, *rest)
        if min(cell.seeds) == 0:
            return own
        return replace(real(replace(cell, seeds=(0, 1)), *rest), noise_hashes=own.noise_hashes)

    monkeypatch.setattr(runner_module, "generate", shared)
    comparison = gate(quick, saved)
    assert comparison.exit_code() == 2
    assert any("12 images of the floor are the reference's" in p for p in comparison.problems)


# ------------------------------------------------------------------------------ lossy


def jpeg(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def round_trip(images: torch.Tensor) -> torch.Tensor:
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    back = np.stack([np.array(Image.open(io.BytesIO(jpeg(p)))) for p in pixels])
    return torch.from_numpy(back).permute(0, 3, 1, 2).contiguous()


def lossy(chosen: Callable[[Any], bool]) -> Callable[..., Any]:
    real = runner_module.generate

    def generate(cell: Any, *rest: Any) -> Any:
        own = real(cell, *rest)
        return replace(own, images=round_trip(own.images)) if chosen(cell) else own

    return generate


def test_lossy_candidate(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner_module, "generate", lossy(lambda cell: cell.method == "ddim"))
    comparison = gate(quick, saved)
    assert worse(comparison, "ddim") >= PAIRED
    assert worse(comparison, "dpm++") == worse(comparison, "reference") == set()
    assert comparison.exit_code() == 1


def test_lossy_everywhere(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    """The reference too: it may move in neither direction."""
    monkeypatch.setattr(runner_module, "generate", lossy(lambda cell: True))
    comparison = gate(quick, saved)
    assert "clip_score[zoo-clip]" in worse(comparison, "reference")
    assert comparison.exit_code() == 1


def test_lossy_files(quick: Any, saved: Saved, monkeypatch: pytest.MonkeyPatch):
    """Refused where they are read; where they are never read again, by the gate."""
    execute(quick.request(**SETTINGS), quick.out / "run", only="reference")
    monkeypatch.setattr(
        "sunbench.bench.writer._png", lambda image: jpeg(image.permute(1, 2, 0).numpy())
    )
    with pytest.raises(UserError, match="lossy JPEG"):
        gate(quick, saved)
    monkeypatch.setenv("SUNBENCH_CACHE", str(Path(os.environ["SUNBENCH_CACHE"]) / "again"))
    with pytest.raises(UserError, match="lossy JPEG"):
        quick.run("again", **SETTINGS)
