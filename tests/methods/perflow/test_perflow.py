"""PeRFlow's scheduler on flows that are straight in pieces, and differences that are added."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import hub_server
import pytest
import torch
from diffusers import UNet2DConditionModel
from random_weights import difference
from safetensors.torch import load_file, save_file

from sunbench import registry
from sunbench.bench.training_requirements import training_requirements
from sunbench.methods.perflow.method import SOLVER, check_difference, with_difference
from sunbench.methods.perflow.scheduler import window_end
from sunbench.models.sources import shipped_configs
from sunbench.sampling import ImageId, SampleSettings, make_batch

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def scheduler(steps: int) -> Any:
    own = SOLVER.build(CONFIG)
    own.set_timesteps(steps)
    return own


def gamma(start: int, end: int) -> float:
    """Between two times of 1000."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return float((kept[start - 1] / kept[max(0, end - 1)]) ** 0.5)


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (4, [1000, 750, 500, 250]),
        (6, [1000, 875, 750, 625, 500, 250]),
        (8, [1000, 875, 750, 625, 500, 375, 250, 125]),
        (12, [1000, 916, 833, 750, 666, 583, 500, 416, 333, 250, 166, 83]),
    ],
)
def test_steps_are_even_in_each_window(steps: int, times: list[int]):
    assert scheduler(steps).timesteps.tolist() == times


@pytest.mark.oracle
@pytest.mark.parametrize("left", [1.0, 0.6, 0.1])
def test_the_windows_end_is_the_ends_of_the_line(left: float):
    """By the two definitions alone: the line between both ends, and the noise of its start."""
    g = torch.Generator().manual_seed(0)
    end, eps = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    start = 0.4 * end + (1 - 0.4**2) ** 0.5 * eps
    z = left * start + (1 - left) * end
    torch.testing.assert_close(window_end(z, eps, (left, 1 - left), 0.4), end)


@pytest.mark.oracle
@pytest.mark.parametrize("steps", [4, 5, 8, 13])
def test_a_flow_that_is_straight_in_pieces_is_followed_exactly(steps: int):
    """Whatever the number of steps: each window's end is met, and the last is the image."""
    g = torch.Generator().manual_seed(1)
    knots = {t: torch.randn(2, 4, 3, 3, generator=g) for t in (1000, 750, 500, 250, 0)}
    own, z = scheduler(steps), knots[1000]
    for t in own.timesteps.tolist():
        start = next(s for s in (250, 500, 750, 1000) if t <= s)
        if t == start:
            torch.testing.assert_close(z, knots[t], rtol=1e-4, atol=1e-4)
        ratio = gamma(start, start - 250)
        eps = (knots[start] - ratio * knots[start - 250]) / (1 - ratio**2) ** 0.5
        share = (t - start + 250) / 250
        expected = share * knots[start] + (1 - share) * knots[start - 250]
        torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
        z = own.step(eps, t, z).prev_sample
    torch.testing.assert_close(z, knots[0], rtol=1e-4, atol=1e-4)


def test_noise_is_added_at_times_of_1000():
    own = scheduler(4)
    x, eps = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    out = own.add_noise(x, eps, torch.tensor([1000, 250]))
    assert out[0, 0, 0, 0] == own.alphas_cumprod[999] ** 0.5
    assert out[1, 0, 0, 0] == own.alphas_cumprod[249] ** 0.5


def test_fewer_steps_than_windows(pipeline: Any, weights: dict[str, str]):
    reason = registry.method("perflow", weights=weights).skip(pipeline, SampleSettings(3, 4.0))
    assert "3 steps asked, expected at least 4: one for each window" in str(reason)
    with pytest.raises(ValueError, match="3 steps"):
        scheduler(3)


def test_differences_are_added_and_guidance_acts_on_top(
    pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    """The sampler by hand: a network with summed weights, guided, under the scheduler."""
    unet = with_difference(pipeline.unet, Path(weights["perflow"]))
    delta, before = load_file(weights["perflow"]), pipeline.unet.state_dict()
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(value, before[name] + delta[name])
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    batch = make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8))
    own, x = SOLVER.build(pipeline.scheduler.config), batch.latents
    own.set_timesteps(5)
    with torch.no_grad():
        for t in own.timesteps:
            positive, negative = (unet(x, t, text).sample for text in texts)
            x = own.step(negative + 4.0 * (positive - negative), t, x).prev_sample
    method = registry.method("perflow", weights=weights)
    sampler = method.prepare(pipeline, SampleSettings(5, 4.0))
    torch.testing.assert_close(sampler.sample(batch), x, rtol=1e-4, atol=1e-4)
    assert sampler.nfe == 10


def test_the_license_stands_with_what_it_takes(pipeline: Any, weights: dict[str, str]):
    needs = training_requirements("tiny", registry.method("perflow", weights=weights), pipeline)
    assert (needs.license, needs.negative_prompts) == ("CC-BY-NC-4.0", True)


def test_weights_of_another_architecture_are_one_line(
    pipeline: Any, weights: dict[str, str], tmp_path: Path
):
    tensors = load_file(weights["perflow"])
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :1].contiguous()
    save_file(tensors, tmp_path / "other.safetensors")
    method = registry.method("perflow", weights={"perflow": str(tmp_path / "other.safetensors")})
    reason = str(method.skip(pipeline, SampleSettings(4, 4.0)))
    assert "weight deltas of another architecture, 1 differ" in reason
    assert "conv_in.weight" in reason
    assert "\n" not in reason


def test_the_published_file_is_fetched_by_its_variant(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "repository"
    folder.mkdir()
    difference(pipeline.unet, folder / "diffusion_pytorch_model.v0-1.safetensors", 3)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"another variant")
    with hub_server.in_place_of_the_hub(monkeypatch, tmp_path / "hub") as hub:
        hub.add("hansyan/perflow-sd15-delta-weights", folder)
        name = {"perflow": "hansyan/perflow-sd15-delta-weights"}
        method = registry.method("perflow", weights=name)
        assert method.skip(pipeline, SampleSettings(4, 4.0)) is None
        assert hub.downloads() == ["diffusion_pytorch_model.v0-1.safetensors"]


def test_full_shapes_of_stable_diffusion_fit(tmp_path: Path):
    """Names and shapes of the whole U-Net, without its 1.7 GB."""
    place = shipped_configs("sd1", Path("sd1")) / "unet" / "config.json"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads(place.read_text()))
    header, size = {}, 0
    for name, x in unet.state_dict().items():
        end = size + 2 * x.numel()
        header[name] = {"dtype": "F16", "shape": list(x.shape), "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    path = tmp_path / "full.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    check_difference(path, unet)
    assert size == 2 * 859_520_964
