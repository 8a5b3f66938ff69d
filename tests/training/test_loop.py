"""The training loop: bit-exact resuming, schedules, refusals."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.training import LoopSettings, fit

SETTINGS = LoopSettings(
    steps=24,
    batch=8,
    learning_rate=0.01,
    warmup=4,
    ema=0.9,
    dtype="float32",
    checkpoint_every=6,
    log_every=4,
)


class Net(nn.Module):
    """A small network with a buffer and a part that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.SiLU())
            self.frozen = nn.Linear(8, 8).requires_grad_(False)
            self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.frozen(self.layers(x)))


class Killed(Exception):
    pass


class Task:
    """Regression whose batch depends on the micro-batch number alone."""

    def __init__(self, net: nn.Module, *, size: int = 8, die_at: int | None = None) -> None:
        self.net, self.size, self.die_at, self.calls = net, size, die_at, 0

    def data(self, k: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.size, 3, generator=torch.Generator().manual_seed(k))
        return x, x.sum(1, keepdim=True).sin()

    def __call__(self, k: int) -> dict[str, Tensor]:
        self.calls += 1
        if k == self.die_at:
            raise Killed
        x, y = self.data(k)
        error = (self.net(x) - y).square().mean()
        return {"loss": error, "root": error.sqrt()}


def trained(folder: Path, settings: LoopSettings = SETTINGS) -> tuple[Net, dict[str, Tensor]]:
    net = Net()
    return net, fit(net, Task(net), settings, folder)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log(folder: Path) -> list[dict[str, str]]:
    """loss.csv without the speed, which depends on the machine."""
    with (folder / "loss.csv").open() as f:
        return [{k: v for k, v in r.items() if k != "images_per_s"} for r in csv.DictReader(f)]


# ------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("die_at", [3, 6, 7, 17, 23])
def test_resumed_training_equals_uninterrupted_to_the_bit(tmp_path: Path, die_at: int):
    """Killed before, at and after checkpoints (6, 12, 18) and log lines (4, 8, ...)."""
    whole, ema = trained(tmp_path / "whole")
    first = Net()
    with pytest.raises(Killed):
        fit(first, Task(first, die_at=die_at), SETTINGS, tmp_path / "killed")
    again = Net()
    task = Task(again)
    resumed = fit(again, task, SETTINGS, tmp_path / "killed")
    assert task.calls == SETTINGS.steps - die_at // 6 * 6
    assert same(again.state_dict(), whole.state_dict())
    assert same(resumed, ema)
    assert log(tmp_path / "killed") == log(tmp_path / "whole")


def test_checkpoints_of_both_runs_are_the_same_tensors(tmp_path: Path):
    trained(tmp_path / "whole")
    net = Net()
    with pytest.raises(Killed):
        fit(net, Task(net, die_at=13), SETTINGS, tmp_path / "killed")
    trained(tmp_path / "killed")
    files = [safe_open(tmp_path / n / "checkpoint.safetensors", "pt") for n in ("whole", "killed")]
    tensors = [{k: f.get_tensor(k) for k in f.keys()} for f in files]  # noqa: SIM118
    assert same(*tensors)
    assert [f.metadata()["step"] for f in files] == ["24", "24"]
    assert any(k.startswith("optimiser/") for k in tensors[0])


def test_rows_that_a_killed_run_logged_after_its_checkpoint_are_dropped(tmp_path: Path):
    net = Net()
    with pytest.raises(Killed):
        fit(net, Task(net, die_at=23), replace(SETTINGS, checkpoint_every=9), tmp_path)
    assert [r["step"] for r in log(tmp_path)] == ["4", "8", "12", "16", "20"]
    trained(tmp_path, replace(SETTINGS, checkpoint_every=9))
    assert [r["step"] for r in log(tmp_path)] == ["4", "8", "12", "16", "20", "24"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("loss.csv", b"step;loss\n4;0.5\n"),
        ("loss.csv", b"step,loss\n4,\xff\n"),
        ("checkpoint.safetensors", save({"x": torch.zeros(2)})),
        ("checkpoint.safetensors", save({"x": torch.zeros(2)}, {"settings": "[]", "step": "4"})),
    ],
)
def test_files_of_something_else_are_one_line(tmp_path: Path, name: str, content: bytes):
    trained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: given ") as caught:
        trained(tmp_path, replace(SETTINGS, steps=30))
    assert "\n" not in str(caught.value)


def test_a_finished_training_is_not_run_again(tmp_path: Path):
    net, ema = trained(tmp_path)
    lines = log(tmp_path)
    again = Net()
    task = Task(again)
    assert same(fit(again, task, SETTINGS, tmp_path), ema)
    assert task.calls == 0
    assert same(again.state_dict(), net.state_dict())
    assert log(tmp_path) == lines


# ------------------------------------------------------------------------------ what is trained


def test_training_lowers_the_loss_and_leaves_frozen_parts(tmp_path: Path):
    net, ema = trained(tmp_path, replace(SETTINGS, steps=200, log_every=20))
    losses = [float(r["loss"]) for r in log(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]
    before = Net()
    assert torch.equal(net.frozen.weight, before.frozen.weight)
    torch.testing.assert_close(ema["frozen.weight"], before.frozen.weight)
    assert int(ema["layers.1.num_batches_tracked"]) == 200


def test_ema_is_the_mean_that_its_formula_says(tmp_path: Path):
    states: list[Tensor] = []
    net = Net()
    task = Task(net)

    def watched(k: int) -> dict[str, Tensor]:
        states.append(net.head.weight.detach().clone())
        return task(k)

    ema = fit(net, watched, SETTINGS, tmp_path)
    states.append(net.head.weight.detach().clone())
    mean = states[0]
    for step, state in enumerate(states[1:], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * state
    torch.testing.assert_close(ema["head.weight"], mean)


def test_accumulation_equals_the_large_batch(tmp_path: Path):
    """Without batch statistics: four micro-batches of 4 are one batch of 16."""

    class Large(Task):
        def data(self, k: int) -> tuple[Tensor, Tensor]:
            parts = [Task.data(self, 4 * k + i) for i in range(4)]
            return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def linear() -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    small, large = linear(), linear()
    fit(small, Task(small, size=4), replace(SETTINGS, accumulate=4), tmp_path / "small")
    fit(large, Large(large, size=4), SETTINGS, tmp_path / "large")
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    for a, b in zip(log(tmp_path / "small"), log(tmp_path / "large"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-3)


def test_gradients_are_clipped(tmp_path: Path):
    """SGD-like reading: AdamW's second moment of the first step shows the clipped norm."""
    net = Net()
    fit(net, Task(net), replace(SETTINGS, steps=1, clip=1e-3), tmp_path)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as f:
        moments = [f.get_tensor(k) for k in f.keys() if k.endswith("exp_avg_sq")]  # noqa: SIM118
    norm = math.sqrt(sum(float(m.sum()) for m in moments) / (1 - SETTINGS.betas[1]))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_is_autocast_over_float32_weights(tmp_path: Path):
    seen: list[torch.dtype] = []
    net = Net()
    net.layers[0].register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    fit(net, Task(net), replace(SETTINGS, dtype="bfloat16", steps=2), tmp_path)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "supported", "warned"),
    [("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)],
)
def test_slow_bfloat16_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dtype: str,
    supported: bool,
    warned: bool,
):
    monkeypatch.setattr("sunbench.training.loop.cpu_has_bfloat16", lambda: supported)
    net = Net()
    with caplog.at_level("WARNING", "sunbench"):
        fit(net, Task(net), replace(SETTINGS, steps=1, dtype=dtype), tmp_path)
    assert ("no bfloat16 instructions" in caplog.text) is warned


def test_checkpoints_are_told(tmp_path: Path):
    told: list[int] = []
    net = Net()
    fit(net, Task(net), SETTINGS, tmp_path, on_checkpoint=lambda step, ema: told.append(step))
    assert told == [6, 12, 18, 24]


# ------------------------------------------------------------------------------ log


@pytest.mark.parametrize("log_every", [4, 7, 100])
def test_log_lines_are_means_over_their_steps(tmp_path: Path, log_every: int):
    """The last line may stand for fewer steps; it was once divided by the full number."""
    losses: list[float] = []
    net = Net()
    task = Task(net)

    def watched(k: int) -> dict[str, Tensor]:
        parts = task(k)
        losses.append(float(parts["loss"].detach()))
        return parts

    fit(net, watched, replace(SETTINGS, log_every=log_every), tmp_path)
    edges = [*range(0, 24, log_every), 24]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges)]
    assert [float(r["loss"]) for r in log(tmp_path)] == pytest.approx(means, rel=1e-4)


# ------------------------------------------------------------------------------ trouble


def test_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path):
    net = Net()
    task = Task(net)

    def bad(k: int) -> dict[str, Tensor]:
        parts = task(k)
        return {"loss": parts["loss"] * (float("nan") if k == 9 else 1)}

    with pytest.raises(UserError, match=r"not finite at step 9; .*below 0\.01"):
        fit(net, bad, SETTINGS, tmp_path)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as f:
        assert f.metadata()["step"] == "6"
        assert all(bool(torch.isfinite(f.get_tensor(k)).all()) for k in f.keys())  # noqa: SIM118
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_gradient_that_is_not_finite_stops_too(tmp_path: Path):
    net = Net()

    def bad(k: int) -> dict[str, Tensor]:
        return {"loss": (net.head.weight * 0).sum().sqrt()}  # 0, with an infinite gradient

    with pytest.raises(UserError, match="not finite at step 0"):
        fit(net, bad, SETTINGS, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_unknown_setting_is_named():
    with pytest.raises(UserError, match="unknown training setting 'learning_rat'"):
        LoopSettings.from_table({"steps": 3, "learning_rat": 1})


def test_settings_from_a_table():
    settings = LoopSettings.from_table({"steps": 3, "betas": [0.8, 0.9]})
    assert settings == LoopSettings(steps=3, betas=(0.8, 0.9))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("learning_rate", x) for x in (math.nan, -1.0, math.inf, 10**400)],
        *[("weight_decay", x) for x in (math.nan, -0.1, math.inf)],
        *[("clip", x) for x in (math.nan, 0.0, -1.0, math.inf)],
        *[("betas", x) for x in ((0.9,), (), (0.9, 1.0), (-0.1, 0.9), (math.nan, 0.9), (0.9,) * 3)],
        *[("seed", x) for x in (-1, 10**20, 2**63, 10**400)],
        *[("steps", x) for x in (0, -1, 10**20)],
        *[("batch", x) for x in (0, 10**20)],
        *[("warmup", x) for x in (-1, 10**20)],
        *[("ema", x) for x in (math.nan, 1.1, -0.1)],
        *[("decay", x) for x in (math.nan, 1.1, -0.1)],
    ],
)
def test_settings_out_of_range_are_one_line(name: str, value: Any):
    with pytest.raises(UserError, match=rf"given {name} = .*expected") as caught:
        LoopSettings.from_table({"steps": 3, name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


# ------------------------------------------------------------------------------ rate


def test_rate_warms_up_stays_and_falls():
    settings = LoopSettings(steps=1000, learning_rate=2.0, warmup=100, decay=0.3)
    rates = [settings.rate(k) for k in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[49] == pytest.approx(1.0)
    assert rates[99:701] == [2.0] * 602
    assert rates[850] == pytest.approx(2 * (1 - math.sqrt(0.5)))
    assert all(a > b > 0 for a, b in pairwise(rates[701:]))
    assert max(rates) == 2.0


def test_rate_without_warm_up_or_decay_is_constant():
    settings = LoopSettings(steps=10, learning_rate=1.0, warmup=0, decay=0.0)
    assert {settings.rate(k) for k in range(10)} == {1.0}
