"""The loop whose updates are CUDA graphs, with a graph that runs what it recorded on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.training import LoopSettings, fit
from sunbench.training.graph import GraphedLoop

SETTINGS = LoopSettings(
    steps=12,
    batch=4,
    learning_rate=0.01,
    warmup=3,
    dtype="float32",
    checkpoint_every=6,
    log_every=4,
)


class Recorded:
    """Stands for a CUDA graph: an update that is recorded runs at each replay, not before."""

    recording: ClassVar[bool] = False
    update: Callable[[], None]

    def replay(self) -> None:
        self.update()


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs and streams for machines without a device."""

    @contextmanager
    def recording(graph: Recorded) -> Iterator[None]:
        monkeypatch.setattr(Recorded, "recording", True)
        yield
        monkeypatch.setattr(Recorded, "recording", False)

    update, adamw = GraphedLoop._update, torch.optim.AdamW

    def recorded(loop: Any) -> None:
        if Recorded.recording:
            loop._graph.update = lambda: update(loop)
        else:
            update(loop)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(GraphedLoop, "_update", recorded)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *a, **k: adamw(*a, **{**k, "capturable": False})
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(k: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(k)
    return torch.randn(4, 3, generator=g), torch.randn(4, 1, generator=g)


def loss_of(net: nn.Module) -> Callable[..., dict[str, Tensor]]:
    def loss(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        error = (net(x) - y).square()
        return {"loss": error.mean(), "worst": error.max()}

    return loss


def graphed(folder: Path, steps: int = SETTINGS.steps) -> dict[str, Tensor]:
    net = network()
    loop = GraphedLoop(net, loss_of(net), batches, SETTINGS, folder)
    for step in range(loop.start, steps):
        loop.step(step)
        if (step + 1) % 4 == 0:
            loop.report(step + 1)
        if (step + 1) % 6 == 0:
            loop.save(step + 1)
    return loop.ema


def columns(file: Path) -> list[list[str]]:
    rows = [line.split(",") for line in file.read_text().splitlines()]
    return [[v for i, v in enumerate(row) if i != 2] for row in rows]  # without the speed


def test_graphs_train_as_the_loop_does(tmp_path: Path) -> None:
    net = network()
    plain = fit(net, loss_of(net), SETTINGS, tmp_path / "plain", batches=batches)
    ema = graphed(tmp_path / "graphed")
    for name, value in plain.items():
        torch.testing.assert_close(ema[name], value, rtol=1e-5, atol=1e-7)
    logs = [columns(tmp_path / name / "loss.csv") for name in ("plain", "graphed")]
    assert logs[0][0] == logs[1][0]
    for a, b in zip(logs[0][1:], logs[1][1:], strict=True):
        assert [float(v) for v in a] == pytest.approx([float(v) for v in b], rel=1e-4)


def test_a_graphed_training_resumes(tmp_path: Path) -> None:
    whole = graphed(tmp_path / "whole")
    graphed(tmp_path / "killed", steps=8)
    resumed = graphed(tmp_path / "killed")
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path: Path) -> None:
    net = network()
    loss = loss_of(net)
    loop = GraphedLoop(net, loss, batches, SETTINGS, tmp_path)
    loop.step(0)
    loop.save(1)
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")  # type: ignore[index,union-attr]
    loop.step(1)
    with pytest.raises(UserError, match="not finite"):
        loop.save(2)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept
