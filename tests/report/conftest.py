"""A small finished run made of the real store, with names and prompts that try to be markup."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_rows import result_row
from run_documents import model_record, run_document
from timing_rows import timing_row

from sunbench.store import (
    CellContent,
    CellStore,
    PairRow,
    ResultRow,
    Results,
    Role,
    RunFolder,
    ShardRow,
    key,
)
from sunbench.store.shared import settings_key
from sunbench.store.timings import Spread, TimingRow

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'> {{ 7 * 7 }} {% raw %}",
    "plain <b>bold</b> & \u2028 'quoted' $x^2$ a very long prompt " + "word " * 60,
)
MODELS = ("tiny", "other <i>model</i>")
METHODS = ("ddim", "dpm++")
STEPS = (4, 8)
DISTANCE = {"ddim": 0.4, "dpm++": 0.2}
SIDE = 16


def content(model: str, method: str, steps: int, prompts: int, seeds: Sequence[int]) -> dict:
    return {
        "model": model,
        "weights": {},
        "method": method,
        "settings": {"solver": {"scheduler": "DDIMScheduler"}},
        "steps": steps,
        "guidance_scale": 5.0,
        "task": "text2image",
        "prompts": {"name": "mine", "hash": "0" * 64, "n": prompts},
        "seeds": list(seeds),
        "resolution": SIDE,
        "dtype": "float32",
        "shard_size": 256,
    }


def stripes(prompt: int, seed: int, shift: int) -> np.ndarray:
    """Stripes whose color says which prompt and which method."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:, ::2] = (40 + 50 * (prompt % 4), 60 + 30 * shift, 90 * (seed + 1))
    return image


def write_cell(
    folder: Path, about: dict[str, Any], features: dict[str, np.ndarray], shift: int, keep: bool
) -> None:
    store, seeds = CellStore(folder, about), about["seeds"]
    rows = [
        ShardRow(
            index=i,
            prompt_id=f"p{i // len(seeds)}",
            seed=seeds[i % len(seeds)],
            prompt=HOSTILE[i // len(seeds) % len(HOSTILE)],
            negative="<u>blurry</u>",
            noise_hash=hashlib.sha256(str(i).encode()).hexdigest(),
            image=stripes(i // len(seeds), seeds[i % len(seeds)], shift) if keep else None,
        )
        for i in range(about["prompts"]["n"] * len(seeds))
    ]
    layout = CellContent.of(about, "content").layout
    for k in range(layout.shards):
        own = layout.shard(k)
        store.write_shard(k, [rows[i] for i in own], {n: a[own] for n, a in features.items()})


def result(model: str, method: str, steps: int, metric: str, value: float, n: int) -> ResultRow:
    names = {"model": model, "method": method, "steps": steps, "metric": metric, "prompts": "mine"}
    ends = {"value": value, "low": value * 0.95, "high": value * 1.05}
    return result_row(**names, **ends, n=n, nfe=2 * steps, protocol="zoo <em>CLIP</em>")


def _model(path: Path, cache: Path, name: str, prompts: int, seeds: Sequence[int], keep: bool):
    reference = content(name, "dpm++", 25, prompts, seeds)
    entries: list[tuple[Role, dict]] = [("reference", reference)]
    write_cell(cache / "reference_sets" / key(reference), reference, {}, 0, True)
    for shift, method in enumerate(METHODS, 1):
        for steps in STEPS:
            about = content(name, method, steps, prompts, seeds)
            n = prompts * len(seeds)
            scores = DISTANCE[method] * 4 / steps * (1 + np.arange(n) / n)
            features = {f"paired-{settings_key(reference)[:12]}-perceptual-zoo-clip-abc": scores}
            write_cell(path / "cells" / key(about), about, features, shift, keep)
            entries.append(("candidate", about))
    return model_record(name, entries, license="<s>free</s>")


def _found(model: str, n: int) -> tuple[list[ResultRow], list[TimingRow]]:
    rows, times = [], []
    times.append({"model": model, "method": "dpm++", "role": "reference", "steps": 25})
    for method in METHODS:
        for steps in STEPS:
            value = DISTANCE[method] * 4 / steps
            rows.append(result(model, method, steps, "perceptual[zoo-clip]", value, n))
            rows.append(result(model, method, steps, "ssim", 1 - value, n))
            rows.append(result(model, method, steps, "fd[zoo-clip]", 10 * value, n))
            times.append({"model": model, "method": method, "role": "candidate", "steps": steps})
    return rows, [timing_record(**t) for t in times]


def timing_record(model: str, method: str, role: Role, steps: int) -> TimingRow:
    seconds = (0.0, 0.0031 * steps, 0.003 * steps, 0.002)
    gain = (0.0031 * 25 + 0.002) / (0.0031 * steps + 0.002), 25 / steps
    ends = {"speed_up": Spread(*gain[:1] * 3), "unet_speed_up": Spread(*gain[1:] * 3)}
    return timing_row(model, method, role, steps, 2.0 * steps, seconds, **ends)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """Makes a finished run: two models, two methods at 4 and 8 steps, four hostile prompts."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("SUNBENCH_CACHE", str(cache))

    def make(*, keep: bool = True, names: Sequence[str] = MODELS) -> RunFolder:
        run, prompts, seeds = RunFolder(tmp_path / "run"), 8, (0, 1)
        models = [_model(run.path, cache, m, prompts, seeds, keep) for m in names]
        rows, times, pairs = [], [], []
        for model in names:
            more = _found(model, prompts * len(seeds))
            rows, times = rows + more[0], times + more[1]
            for steps, low in ((4, 0.0), (8, 0.4)):
                place = (model, steps, "perceptual[zoo-clip]", "ddim", "dpm++")
                pairs.append(PairRow(*place, 0.45, low, 0.49 + low / 4, prompts))
        run.write_results(Results(tuple(rows), tuple(pairs), timing=tuple(times)))
        request = {"models": list(names), "device": "cpu", "prompts": None}
        run.write_run(run_document(*models, **request))
        return run

    return make
