"""What a training says of itself: its settings, its cost over stops and resumes, its average."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.store.files import read_toml
from sunbench.training import LoopSettings, fit
from sunbench.training.curves import read_curves
from sunbench.training.record import Cost, averaged, read_training, record_cost, settle
from sunbench.training.settings import from_table, over

LOOP = LoopSettings(
    steps=6,
    batch=5,
    learning_rate=0.1,
    warmup=0,
    accumulate=2,
    dtype="float32",
    checkpoint_every=2,
    log_every=2,
)


class Killed(Exception):
    pass


class Task:
    """Pulls a weight to 1; dies at a micro-batch."""

    def __init__(self, net: nn.Linear, die_at: int | None = None) -> None:
        self.net, self.die_at = net, die_at

    def __call__(self, k: int) -> dict[str, Tensor]:
        if k == self.die_at:
            raise Killed
        return {"loss": (self.net.weight - 1).square().mean()}


def linear() -> nn.Linear:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


# ------------------------------------------------------------------------------ cost


def test_cost_counts_what_was_kept_and_goes_on(tmp_path: Path):
    net = linear()
    with pytest.raises(Killed):
        fit(net, Task(net, die_at=10), LOOP, tmp_path)  # in the sixth step, after a checkpoint of 4
    first = Cost.of(tmp_path, LOOP, 2)
    assert (first.steps, first.images, first.parameters) == (4, 40, 2)
    assert first.seconds > 0
    fit(net, Task(net), LOOP, tmp_path)
    whole = Cost.of(tmp_path, LOOP, 2)
    assert (whole.steps, whole.images) == (6, 60)
    assert whole.seconds > first.seconds
    fit(net, Task(net), LOOP, tmp_path)
    assert Cost.of(tmp_path, LOOP, 2) == whole


def test_costs_of_parts_are_summed_and_replaced(tmp_path: Path):
    settle(tmp_path, {"method": "mine"})
    record_cost(tmp_path, Cost(2, 20, 1.5, 7), LOOP, "one")
    record_cost(tmp_path, Cost(4, 40, 2.0, 7), LOOP, "one")
    record_cost(tmp_path, Cost(1, 10, 0.5, 9), LOOP, "two")
    said = json.loads((tmp_path / "training.json").read_text())
    assert said["method"] == "mine"
    assert said["loop"] == json.loads(json.dumps(asdict(LOOP)))
    assert said["cost"]["parts"]["one"] == asdict(Cost(4, 40, 2.0, 7))
    assert [said["cost"][n] for n in ("steps", "images", "seconds")] == [5, 50, 2.5]
    record_cost(tmp_path, Cost(3, 30, 1.0, 7), LOOP)
    said = json.loads((tmp_path / "training.json").read_text())
    assert said["cost"] == asdict(Cost(3, 30, 1.0, 7))


def test_another_training_is_refused_whatever_it_has_cost(tmp_path: Path):
    settle(tmp_path, {"k": 20, "pair": (1, 2)})
    record_cost(tmp_path, Cost(1, 1, 1.0, 1), LOOP)
    settle(tmp_path, {"k": 20, "pair": (1, 2)})
    with pytest.raises(UserError, match=r"begun with k = 20, asked 10; .*another folder"):
        settle(tmp_path, {"k": 10, "pair": (1, 2)})
    with pytest.raises(UserError, match="begun with more = None, asked 1"):
        settle(tmp_path, {"k": 20, "pair": (1, 2), "more": 1})


# ------------------------------------------------------------------------------ average


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"cannot write .*{place}: (File exists|Not a directory)"):
        settle(tmp_path / place, {"k": 20})


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_training_json_that_is_no_file_is_one_line(tmp_path: Path, make: Any):
    make(tmp_path / "training.json")
    with pytest.raises(UserError, match=r"cannot read .*training\.json: given a (folder|FIFO)"):
        read_training(tmp_path / "training.json")


def test_the_average_is_handed_out_once_and_kept_up_to_date(tmp_path: Path):
    """The same tensors from the first step to the last, after a resume those of the checkpoint."""
    handed: list[dict[str, Tensor]] = []
    net = linear()
    with pytest.raises(Killed):
        fit(net, Task(net, die_at=9), LOOP, tmp_path, on_begin=handed.append)
    assert len(handed) == 1
    assert torch.count_nonzero(handed[0]["weight"]) == 2
    kept: list[Tensor] = []
    again = linear()

    def begin(ema: dict[str, Tensor]) -> None:
        handed.append(ema)
        kept.append(ema["weight"].clone())

    ema = fit(again, Task(again), LOOP, tmp_path, on_begin=begin)
    torch.testing.assert_close(kept[0], handed[0]["weight"])  # of step 4, where both stopped
    assert handed[1]["weight"] is ema["weight"]
    assert not torch.equal(ema["weight"], kept[0])


def test_averaged_weights_are_there_for_a_while_even_if_it_fails():
    net = linear()
    seen: list[Tensor] = []

    def fails() -> None:
        with averaged(net, {"weight": torch.ones(1, 2)}):
            seen.append(net.weight.detach().clone())
            raise Killed

    with pytest.raises(Killed):
        fails()
    assert torch.equal(seen[0], torch.ones(1, 2))
    assert torch.equal(net.weight, torch.zeros(1, 2))


def test_curves_leave_out_what_is_no_loss(tmp_path: Path):
    net = linear()
    fit(net, Task(net), LOOP, tmp_path)
    steps, curves = read_curves(tmp_path / "loss.csv")
    assert steps == [2, 4, 6]
    assert list(curves) == ["loss"]
    assert curves["loss"] == sorted(curves["loss"], reverse=True)


# ------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Mine:
    share: float = 0.5
    sizes: tuple[int, ...] = (1,)
    scale: float | None = None
    loop: LoopSettings = field(default=LOOP)


def test_a_table_becomes_settings():
    settings = from_table(
        Mine, {"share": 1, "sizes": [4, 2], "loop": {"steps": 9}}, "setting of mine"
    )
    assert settings == Mine(share=1, sizes=(4, 2), loop=replace(LOOP, steps=9))
    assert from_table(Mine, {"scale": 3}, "setting of mine").scale == 3


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"shares": 1.0}, "unknown setting of mine 'shares'; did you mean 'share'?"),
        ({"share": True}, "given share = True, expected float"),
        ({"sizes": [1, "x"]}, "given sizes = [1, 'x'], expected tuple[int, ...]"),
        ({"sizes": 3}, "given sizes = 3, expected tuple[int, ...]"),
        ({"scale": "x"}, "given scale = 'x', expected float"),
        ({"loop": 3}, "given loop = 3, expected a table [loop]"),
        ({"loop": {"steps": 0}}, "given steps = 0, expected 1 to 1e+09"),
        ({"loop": {"ema": 1.5}}, "given ema = 1.5, expected 0 to 1"),
        ({"loop": {"betas": [0.9, "x"]}}, "expected tuple[float, float]"),
    ],
)
def test_tables_that_are_wrong_are_one_line(table: dict[str, object], line: str):
    with pytest.raises(UserError) as caught:
        from_table(Mine, table, "setting of mine")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_table_over_another():
    lower = {"a": 1, "b": 2, "loop": {"steps": 3, "batch": 4}}
    assert over(lower, {"b": 5, "loop": {"steps": 6}}) == {
        "a": 1,
        "b": 5,
        "loop": {"steps": 6, "batch": 4},
    }
    assert over(lower, {}) == lower
    assert over({}, lower) == lower
    assert over(lower, {"loop": 3})["loop"] == 3  # an error of the user's, told later


def test_files_that_are_no_settings(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(UserError, match="is not TOML"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(UserError, match=r"cannot read .*none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")
