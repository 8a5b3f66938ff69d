"""AGD: the base itself at first, guided trajectories as inputs, files of another U-Net refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench.errors import UserError
from sunbench.methods.agd.adapter import AgdAdapter, AgdUNet, load_agd, write_agd
from sunbench.methods.agd.train import TrajectoryFeed
from sunbench.methods.common.attentions import cross_attentions
from sunbench.methods.common.training import TrainingJob
from sunbench.training.diffusion import ddim_step


def inputs(tiny: ModuleType) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 24, tiny.WIDTH, generator=g)


def test_an_untrained_adapter_is_the_base(pipeline: Any, tiny: ModuleType):
    x, text = inputs(tiny)
    unet = AgdUNet(pipeline.unet, AgdAdapter(pipeline.unet, 8), 5.0)
    assert torch.equal(unet(x, 500, text)[0], pipeline.unet(x, 500, text).sample)


def test_scale_time_and_text_act(pipeline: Any, tiny: ModuleType, weights: dict[str, str]):
    x, text = inputs(tiny)
    unet = AgdUNet(pipeline.unet, load_agd(Path(weights["agd"]), pipeline.unet), 5.0)
    one = unet(x, 500, text)[0]
    assert torch.equal(unet(x, 500, text, guidance=torch.tensor([5.0, 5.0]))[0], one)
    other = unet(x, 500, text, guidance=torch.tensor([5.0, 2.0]))[0]
    torch.testing.assert_close(other[0], one[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(other[1], one[1], atol=1e-5)


def test_a_file_comes_back(pipeline: Any, tmp_path: Path):
    adapter = AgdAdapter(pipeline.unet, 8, 3)
    write_agd(tmp_path / "a.safetensors", adapter, {}, torch.float32)
    again = load_agd(tmp_path / "a.safetensors", pipeline.unet)
    for a, b in zip(adapter.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert again.names == list(cross_attentions(pipeline.unet))


def test_another_u_nets_adapter_is_one_line(pipeline: Any, tiny: ModuleType, tmp_path: Path):
    wide = tiny.pipeline(tmp_path / "wide", cross_attention_dim=64)
    write_agd(tmp_path / "a.safetensors", AgdAdapter(wide.unet, 8), {}, torch.float32)
    with pytest.raises(UserError, match="adapter of another architecture") as caught:
        load_agd(tmp_path / "a.safetensors", pipeline.unet)
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else_is_one_line(pipeline: Any, weights: dict[str, str]):
    with pytest.raises(UserError, match="holds no AGD adapter"):
        load_agd(Path(weights["lcm-lora"]), pipeline.unet)


def test_inputs_lie_on_the_teachers_trajectory(make: Callable[..., TrainingJob]):
    job = make("agd", points=3)
    feed = TrajectoryFeed(job.feed(job.settings.loop), job.schedule, job.teacher, 3)
    seen: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    for number in range(3):
        drawn, x, t, noise = feed.draw(number)
        for row in range(len(x)):
            seen[row, int(t[row])] = (x[row], noise[row])
    times = feed.index().tolist()
    assert len(seen) == 3 * len(x)  # every point of every image once
    for row in range(len(x)):
        assert torch.equal(seen[row, times[0]][0], drawn.eps[row])
        for now, then in ((times[0], times[1]), (times[1], times[2])):
            at, to = (job.schedule.at(torch.tensor([k])) for k in (now, then))
            x_t, eps = seen[row, now]
            ours = ddim_step(x_t[None], eps[None], at, to)[0]
            torch.testing.assert_close(ours, seen[row, then][0])


def test_numbers_out_of_order_are_the_same(make: Callable[..., TrainingJob]):
    """A training that is resumed starts anywhere."""
    job = make("agd", points=3)
    feeds = [
        TrajectoryFeed(job.feed(job.settings.loop), job.schedule, job.teacher, 3) for _ in range(2)
    ]
    for number in range(5):
        feeds[0].draw(number)
    assert torch.equal(feeds[0].draw(4)[1], feeds[1].draw(4)[1])
