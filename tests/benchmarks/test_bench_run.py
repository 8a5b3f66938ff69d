"""A whole run beside the two scripts that people write for it today, and where its time goes.

Both scripts do the work of the run (one fine-tune, the 25-step reference, two methods at 4 and 8
steps, six metrics) with diffusers' pipeline and torchmetrics, through PNG files in folders: once an
image per call, once batched by hand. They have no intervals and cannot be resumed. CLIP score is
written out: torchmetrics' own expects what transformers returned before version 5.

SUNBENCH_BENCH_IMAGES images per cell, 64 by default, 300 as `sunbench run` has. Nothing is asserted
on time: the figures stand in pytest-benchmark's extra_info and in one printed line each.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torchmetrics.image import (
    FrechetInceptionDistance,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)

from sunbench import prompts, zoo
from sunbench.bench import Request, cells
from sunbench.bench.run import execute
from sunbench.metrics.networks.zoo_clip import ZooClip
from sunbench.metrics.perceptual import Perceptual
from sunbench.models import find_model
from sunbench.reference_sets import recipe_for
from sunbench.store import RunFolder

pytestmark = pytest.mark.slow

IMAGES = int(os.environ.get("SUNBENCH_BENCH_IMAGES", "64"))
MODEL = "emoji-3d"
METRICS = (
    "fd[zoo-clip]",
    "clip_score[zoo-clip]",
    "perceptual[zoo-clip]",
    "ssim",
    "psnr",
    "cos[zoo-clip]",
)
#: Phases of a run inside neural networks; the solver counts to the sampler, LPIPS to the paired
#: metrics.
NETWORKS = ("sampler", "VAE decoder", "text encoder", "feature networks")
LOADING = ("loading models", "loading feature networks")

Phases = dict[str, float]


@dataclass(frozen=True)
class Timed:
    """One way of doing the work: seconds in all and by phase, and its numbers."""

    seconds: float
    phases: Phases
    values: list[float]

    def line(self, name: str, images: int) -> str:
        parts = sorted(self.phases.items(), key=lambda p: -p[1])
        shares = ", ".join(f"{p} {100 * s / self.seconds:.1f} %" for p, s in parts)
        speed = f"{5 * images / self.seconds:.1f} images/s"
        return f"{name}, {images} images per cell: {self.seconds:.1f} s, {speed} ({shares})"


# ------------------------------------------------------------------------------ sunbench


def by_sunbench(folder: Path, images: int) -> Timed:
    request = Request(models=(MODEL,), images=images, metrics=METRICS, floor=False, timing="none")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SUNBENCH_CACHE", str(folder / "cache"))  # no reference set from before
        began = time.perf_counter()
        outcome = execute(request, folder / "run")
        seconds = time.perf_counter() - began
    values = [math.nan if r.value is None else r.value for r in outcome.rows]
    return Timed(seconds, RunFolder(folder / "run").read_run().phases, values)


# ------------------------------------------------------------------------------ by hand


class Features(nn.Module):
    """The zoo's CLIP, as torchmetrics takes a feature network."""

    def __init__(self, scorer: ZooClip) -> None:
        super().__init__()
        self.scorer, self.num_features = scorer, scorer.dim

    def forward(self, images: Tensor) -> Tensor:
        return self.scorer.embed(images)


def spans(n: int, batch: int) -> Iterator[slice]:
    return (slice(i, min(i + batch, n)) for i in range(0, n, batch))


def sample(pipe: Any, texts: list[str], steps: int, batch: int, folder: Path) -> None:
    """A seeded generator per image, PNG files into a folder."""
    folder.mkdir()
    guidance = find_model(MODEL).guidance_scale
    for span in spans(len(texts), batch):
        numbers = range(span.start, span.stop)
        sampled = pipe(
            texts[span],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(i) for i in numbers],
        ).images
        for i, image in zip(numbers, sampled, strict=True):
            image.save(folder / f"{i:05d}.png")


def read(files: list[Path]) -> Tensor:
    pixels = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


@torch.no_grad()
def score(
    folder: Path, reference: Path, texts: list[str], scorer: ZooClip, batch: int
) -> list[float]:
    """The six metrics of a folder against the reference's, both read from their files."""
    fd = FrechetInceptionDistance(Features(scorer))
    ssim = StructuralSimilarityIndexMeasure(data_range=255.0)
    psnr = PeakSignalNoiseRatio(data_range=255.0)
    mine, theirs = (sorted(f.glob("*.png")) for f in (folder, reference))
    clip, cos, perceptual = [], [], []
    for span in spans(len(texts), batch):
        a, b = read(mine[span]), read(theirs[span])
        fd.update(a, real=False)
        fd.update(b, real=True)
        ssim.update(a.float(), b.float())
        psnr.update(a.float(), b.float())
        clip.append(100 * cosine_similarity(scorer.embed(a), scorer.embed_text(texts[span])))
        cos.append(cosine_similarity(scorer.embed(a), scorer.embed(b)))
        perceptual.append(Perceptual().paired_scores(a, b, scorer))
    means = [torch.cat(values).mean() for values in (clip, cos, perceptual)]
    return [float(v) for v in (fd.compute(), ssim.compute(), psnr.compute(), *means)]


def by_hand(folder: Path, images: int, batch: int) -> Timed:
    texts = [p.text for p in prompts.load("zoo", limit=images).rows]
    phases: Phases = {}

    def timed(phase: str, do: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        out = do(*args)
        phases[phase] = phases.get(phase, 0.0) + time.perf_counter() - began
        return out

    began = time.perf_counter()
    pipe = timed("loading", StableDiffusionPipeline.from_pretrained, zoo.folder(MODEL))
    pipe.to(dtype=torch.float32).set_progress_bar_config(disable=True)
    config = pipe.scheduler.config
    solvers = {
        "ddim": DDIMScheduler.from_config(config, timestep_spacing="trailing"),
        "dpm++": DPMSolverMultistepScheduler.from_config(config),
    }
    cells = [("dpm++", 25), *((m, s) for m in solvers for s in (4, 8))]
    for method, steps in cells:
        pipe.scheduler = solvers[method]
        timed("sampling", sample, pipe, texts, steps, batch, folder / f"{method}-{steps}")
    scorer = timed("loading", ZooClip, zoo.folder("scorer"))
    values: list[float] = []
    for method, steps in cells[1:]:
        both = folder / f"{method}-{steps}", folder / "dpm++-25"
        values += timed("scoring", score, *both, texts, scorer, batch)
    return Timed(time.perf_counter() - began, phases, values)


# ------------------------------------------------------------------------------ side by side


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Imports and first calls are nobody's."""
    folder = tmp_path_factory.mktemp("warm")
    by_sunbench(folder, 2)
    by_hand(folder, 2, 2)


@pytest.fixture(scope="module")
def measured() -> dict[str, Timed]:
    return {}


@pytest.fixture
def ours(warm: None, measured: dict[str, Timed], tmp_path: Path) -> Timed:
    """The run's figures, from the first test that needed them."""
    if "sunbench" not in measured:
        measured["sunbench"] = by_sunbench(tmp_path, IMAGES)
    return measured["sunbench"]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return line


def test_run(benchmark, warm, measured, tmp_path, say):
    timed = benchmark.pedantic(by_sunbench, (tmp_path, IMAGES), rounds=1)
    measured["sunbench"] = timed
    benchmark.extra_info.update(images=IMAGES, phases=timed.phases)
    say(timed.line("sunbench", IMAGES))
    assert np.isfinite(timed.values).all()
    assert len(timed.values) == 4 * len(METRICS) + 1  # and the reference's CLIP score


@pytest.mark.parametrize(("name", "batch"), [("one image per call", 1), ("batched by hand", 64)])
def test_by_hand(benchmark, ours, tmp_path, say, name, batch):
    folder = tmp_path / "by-hand"
    folder.mkdir()
    timed = benchmark.pedantic(by_hand, (folder, IMAGES, batch), rounds=1)
    ratio = timed.seconds / ours.seconds
    benchmark.extra_info.update(images=IMAGES, phases=timed.phases, times_sunbench=ratio)
    say(f"{timed.line(name, IMAGES)}: {ratio:.2f} times sunbench's")
    assert np.isfinite(timed.values).all()
    assert len(timed.values) == 4 * len(METRICS)


def share(timed: Timed, names: tuple[str, ...]) -> float:
    return sum(timed.phases.get(n, 0.0) for n in names) / timed.seconds


def test_overhead(benchmark, ours, say):
    shares = {
        "networks": share(ours, NETWORKS),
        "paired metrics": share(ours, ("paired metrics",)),
        "loading": share(ours, LOADING),
    }
    rest = benchmark.pedantic(lambda: 1 - sum(shares.values()), rounds=1)
    benchmark.extra_info.update(images=IMAGES, rest=rest, **shares)
    parts = ", ".join(f"{name} {100 * s:.1f} %" for name, s in shares.items())
    say(f"sunbench, {IMAGES} images per cell: {parts}, all else {100 * rest:.1f} %")
    assert sum(ours.phases.values()) <= ours.seconds
    assert 0 < rest < 1


# ------------------------------------------------------------------------------ memory

MEMORY_IMAGES = min(max(IMAGES, 256), 1000)  # a shard at least; ten times as many prompts exist
MORE = 10


def peak_bytes() -> int:
    """Peak resident memory of this process.

    On Linux from VmHWM, as getrusage's figure there starts at that of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(images: int, folder: Path) -> int:
    """Peak memory of a run of single steps; to be called in a process of its own."""
    request = Request(
        models=(MODEL,),
        methods=("ddim",),
        steps=(1,),
        images=images,
        guidance_scale=1.0,
        metrics=METRICS,
        floor=False,
        timing="none",
    )
    with patch.object(cells, "recipe_for", lambda model: replace(recipe_for(model), steps=1)):
        execute(request, folder / "run")
    return peak_bytes()


def peak_of(images: int, folder: Path) -> int:
    command = [sys.executable, __file__, str(images), str(folder)]
    environment = {**os.environ, "SUNBENCH_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def test_memory_is_flat_in_the_number_of_images(benchmark, tmp_path, say):
    few = peak_of(MEMORY_IMAGES, tmp_path / "few")
    many = benchmark.pedantic(peak_of, (MORE * MEMORY_IMAGES, tmp_path / "many"), rounds=1)
    benchmark.extra_info.update(images=MEMORY_IMAGES, peak_bytes=few, peak_bytes_of_10x=many)
    say(
        f"peak memory: {few / 2**20:.0f} MiB at {MEMORY_IMAGES} images per cell,"
        f" {many / 2**20:.0f} MiB at {MORE * MEMORY_IMAGES}"
    )
    assert many < 1.1 * few


if __name__ == "__main__":
    peak = measure(int(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(json.dumps({"peak_bytes": peak}) + "\n")
