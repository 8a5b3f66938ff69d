"""Several processes on one training: the way of one process, files of the first alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sunbench.errors import UserError
from sunbench.training.workers import ProcessGroup, join, workers

RECIPE = """
sheet = 0
[loop]
steps = 3
batch = 4
accumulate = {accumulate}
dtype = "float32"
checkpoint_every = 2
log_every = 1
"""


def train(tmp_path: Path, name: str, processes: int, accumulate: int = 2):
    """``sunbench train`` on the zoo's base, in as many processes as a launcher starts."""
    recipe = tmp_path / f"{name}.toml"
    recipe.write_text(RECIPE.format(accumulate=accumulate))
    images = tmp_path / "images"
    images.mkdir(exist_ok=True)
    for color in ("red", "green", "blue"):
        Image.new("RGB", (64, 64), color).save(images / f"{color}.png")
        (images / f"{color}.txt").write_text(f"a {color} square")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launcher if processes > 1 else []), "-m", "sunbench", "train", "sun"]
    model = ["--base", "emoji", "--data", images, "--device", "cpu"]
    return subprocess.run(
        [sys.executable, *command, *model, "--config", recipe, "--out", tmp_path / name],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )


def losses(folder: Path) -> list[float]:
    with (folder / "loss.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_go_the_way_of_one(tmp_path: Path):
    one, two = train(tmp_path, "one", 1), train(tmp_path, "two", 2)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert two.stdout.count("Weights:") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert len(losses(tmp_path / "two")) == 3
    a, b = (load_file(tmp_path / n / "checkpoint.safetensors") for n in ("one", "two"))
    assert a.keys() == b.keys()
    moments = [k for k in a if k.endswith("exp_avg")]
    assert moments
    for key in moments:  # means of gradients: the updates' signs hang on rounding where those are 0
        torch.testing.assert_close(b[key], a[key], rtol=1e-2, atol=1e-2 * float(a[key].abs().max()))
    assert (tmp_path / "two/sun.safetensors").is_file()


def test_micro_batches_that_cannot_be_dealt_are_one_line(tmp_path: Path):
    ended = train(tmp_path, "uneven", 2, accumulate=3)
    assert ended.returncode != 0
    assert "given accumulate = 3 micro-batches an update, expected a multiple of the 2" in (
        " ".join(ended.stderr.split())
    )


def test_micro_batches_are_dealt_each_once():
    shares = [list(ProcessGroup(rank, 3).share(6)) for rank in range(3)]
    assert sorted(k for share in shares for k in share) == list(range(6))
    assert {len(share) for share in shares} == {2}
    with pytest.raises(UserError, match="expected a multiple of the 4 processes"):
        ProcessGroup(0, 4).share(6)


def test_without_a_launcher_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cuda:1") == "cuda:1"
    assert workers() == ProcessGroup(0, 1)


@pytest.mark.parametrize("count", ["abc", "", "-1", "0", "1.5", "²", "1_0", "9" * 5000])
def test_a_world_size_that_is_no_number_is_one_line(count: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(
        UserError, match=r"given WORLD_SIZE=.*expected a number: a launcher sets it"
    ):
        join("cpu")
