"""On a CUDA device: the images of a CPU but for rounding, a training, and Stable Diffusion's size.

``pytest tests/gpu`` on a machine that has one; elsewhere they skip themselves.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sizes import with_words

from sunbench import registry
from sunbench.bench import Request
from sunbench.bench.run import execute
from sunbench.bench.verify import verify_run
from sunbench.methods.sun import SunAdapter, write_adapter
from sunbench.models import find_model, load
from sunbench.paper.timing import random_pipeline
from sunbench.registry import trainer
from sunbench.sampling import ImageId, SampleSettings, latent_shape, make_batch
from sunbench.training import LoopSettings, fit
from sunbench.training.request import TrainRequest
from sunbench.zoo import weights

DEVICE = "cuda"
STEPS = 4
PROMPTS = ["a red apple", "noto style, a large frog on a blue background"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_zoo = pytest.mark.skipif(not weights().is_dir(), reason="the zoo's weights are not here")


def latents(name: str, device: str) -> torch.Tensor:
    """Two images of a method on the zoo's base, before the decoder."""
    pipe = load(find_model("emoji"), device=device).pipeline
    with torch.no_grad():
        texts, negatives = (
            pipe.encode_prompt(words, device, 1, False)[0].float().cpu()
            for words in (PROMPTS, ["", ""])
        )
    images = [ImageId(words, seed) for seed, words in enumerate(PROMPTS)]
    method, settings = registry.method(name), SampleSettings(STEPS, 3.0)
    if (reason := method.skip(pipe, settings)) is not None:
        pytest.skip(reason)
    sampler = method.prepare(pipe, settings)
    batch = make_batch(images, texts, negatives, latent_shape(pipe))
    try:
        return sampler.sample(batch).float().cpu()
    finally:
        method.release(pipe)


@needs_zoo
@pytest.mark.parametrize("name", sorted(registry.METHODS))
def test_a_method_makes_the_latents_of_a_cpu(name: str):
    """From the same noise, within a hundredth of their size: convolutions may use TF32."""
    there, here = latents(name, DEVICE), latents(name, "cpu")
    assert bool(torch.isfinite(there).all())
    assert float((there - here).abs().mean() / here.abs().mean()) < 0.01


def run(out: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {"steps": (STEPS,), "images": 16, "batch": 8, "device": DEVICE}
    return execute(Request(**{**settings, **changes}), out)


@needs_zoo
def test_a_run_gives_the_results_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for device in (DEVICE, "cpu"):
        monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / f"cache-{device}"))
        outcome = run(tmp_path / f"run-{device}", methods=("sun", "lcm", "ddim"), device=device)
        assert verify_run(tmp_path / f"run-{device}")[1] == []
        assert all(min(t.unet_seconds) > 0 for t in outcome.times)
        assert {t.memory for t in outcome.times} == {"cuda" if device == DEVICE else "rss"}
        valued = [r for r in outcome.rows if r.value is not None]
        rows[device] = {(f"{r.role} {r.method}", r.metric): r.value for r in valued}
    assert rows[DEVICE].keys() == rows["cpu"].keys()
    for (method, metric), value in rows[DEVICE].items():
        if metric.startswith(("clip_score", "ssim", "psnr", "perceptual", "cos")):
            assert math.isclose(value, rows["cpu"][method, metric], rel_tol=0.03), (method, metric)


def captioned(folder: Path) -> Path:
    """Eight captioned images."""
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (64, 64), (30 * i, 200 - 20 * i, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"an image of number {i}")
    return folder


@needs_zoo
@pytest.mark.parametrize("method", ["sun", "lcm", "lcm-lora", "boostdiff-lora", "boostdiff-bitfit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_runs(method: str, dtype: str, tmp_path: Path):
    data, config = captioned(tmp_path / "data"), tmp_path / "config.toml"
    config.write_text(
        "sheet = 0\n[loop]\nsteps = 4\nbatch = 4\nwarmup = 1\ncheckpoint_every = 2\n"
        f'log_every = 1\ndtype = "{dtype}"\n'
    )
    file = trainer(method)(
        TrainRequest(method, "emoji", tmp_path / "out", config, str(data), DEVICE)
    )
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    losses = (tmp_path / "out" / "loss.csv").read_text().splitlines()
    assert file.is_file()
    assert told["cost"]["images"] == 16
    assert len(losses) == 5
    assert all(math.isfinite(float(line.split(",")[3])) for line in losses[1:])


def test_an_update_as_a_graph_is_the_loops(tmp_path: Path):
    """The same batches through the graph and layer by layer; batches come from other processes."""

    def trained(folder: Path, *, graph: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        ).to(DEVICE)

        def batch(k: int) -> tuple[torch.Tensor, torch.Tensor]:
            g = torch.Generator().manual_seed(k)
            return torch.randn(32, 3, generator=g), torch.randn(32, 1, generator=g)

        def loss(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (net(x) - y).square().mean()}

        def by_number(k: int) -> dict[str, torch.Tensor]:
            return loss(*(t.to(DEVICE) for t in batch(k)))

        settings = LoopSettings(steps=50, batch=32, learning_rate=0.01, dtype="float32")
        if graph:
            return fit(net, loss, settings, folder, batches=batch)
        return fit(net, by_number, settings, folder)

    plain = trained(tmp_path / "plain", graph=False)
    graphed = trained(tmp_path / "graphed", graph=True)
    for name, value in plain.items():
        torch.testing.assert_close(graphed[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_model_of_stable_diffusions_size_runs_in_float16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A card of a diffusers folder of SD 1.5's full shape, with random weights."""
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "cache"))
    pipe = random_pipeline("sd1", DEVICE, torch.float16)
    assert sum(p.numel() for p in pipe.unet.parameters()) == 859_520_964
    with_words(pipe, tmp_path / "words").save_pretrained(tmp_path / "model")
    adapter = SunAdapter.for_unet(torch.nn.Module.to(pipe.unet, "cpu", torch.float32))
    write_adapter(adapter, tmp_path / "sun.safetensors")
    (tmp_path / "prompts.txt").write_text("a b\nb a\n")
    (tmp_path / "large.toml").write_text(
        f'name = "large"\nsource = "folder"\nid = "{tmp_path / "model"}"\narchitecture = "sd1"\n'
        'vae = "own"\nguidance_scale = 7.5\nresolution = 512\n'
    )
    outcome = run(
        tmp_path / "run",
        models=(str(tmp_path / "large.toml"),),
        methods=("sun", "ddim", "dpm++"),
        steps=(2,),
        images=2,
        batch=2,
        prompts=str(tmp_path / "prompts.txt"),
        metrics=("ssim", "psnr"),
        dtype="float16",
        floor=False,
        weights={"sun": str(tmp_path / "sun.safetensors")},
    )
    measured = {r.method for r in outcome.rows if r.value is not None}
    assert measured == {"sun", "ddim", "dpm++"}
    assert {t.nfe for t in outcome.times if t.method == "sun"} == {2}
