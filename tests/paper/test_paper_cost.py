"""Sizes of networks, and the table that A-SDM's paper lacks, on a tiny model of its layout."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import random_weights
import tiny_sd

from sunbench.paper.cost import _shown, macs_of, size_of, turns


def test_sizes_are_counted(deep: Any):
    size = size_of(deep.unet, 24)
    assert size.parameters == sum(p.numel() for p in deep.unet.parameters())
    assert size.macs == macs_of(deep.unet, 24) > 0
    assert macs_of(deep.unet, 48) > size.macs
    assert deep.unet.device.type == "cpu"


def test_turns_of_a_method_that_switches():
    assert turns("switch-s1") == (("bk-sdm-base", 10), ("model", 15))
    assert turns("bk-sdm-base+ddim") == turns("ddim") == ()


def test_times_in_doubt_are_marked():
    names = ("parameters", "gmacs", "nfe", "unet_ms", "unet_speed_up", "image_ms", "speed_up")
    record: dict[str, Any] = dict.fromkeys(names, 2.0)
    record |= {"parameters": 9, "distance": 0.5, "low": None, "high": None}
    shown = _shown(record, "", " (a)")
    assert [cell.endswith(" (a)") for cell in shown] == [False] * 3 + [True] * 4 + [False]


@pytest.fixture
def world(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card of a model with four stages, and the zoo's weights of two of its networks."""
    made = tiny_sd.World.write(tmp_path)
    pipe = tiny.pipeline(tmp_path / "deep-words", **tiny.DEEP)
    pipe.save_pretrained(tmp_path / "tiny")
    random_weights.pruned(pipe.unet, made.weights / "bk-sdm-base.safetensors", 1, cut="base")
    random_weights.pruned(pipe.unet, made.weights / "a-sdm-m1.safetensors", 2, cut="m1")
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    tiny_sd.settle(made, monkeypatch.setattr)
    return made.card


def call(patch: pytest.MonkeyPatch, *words: str) -> int:
    from sunbench.cli import main

    patch.setattr(sys, "argv", ["sunbench", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


ASKED = ["--seeds", "1", "--batch", "10", "--device", "cpu", "--images"]


@pytest.mark.slow
def test_the_table_has_every_network(world: Path, monkeypatch: pytest.MonkeyPatch):
    assert call(monkeypatch, "paper", "a-sdm-cost", "--models", str(world), *ASKED, "4") == 0
    folder = Path("runs/paper/a-sdm-cost/paper")
    rows = {r["method"]: r for r in lines(folder / "a-sdm-cost-tiny.csv")}
    assert len(rows) == 14
    for name in ("dpm++", "bk-sdm-base", "a-sdm-m1", "switch-s1", "gri-attention"):
        assert float(rows[name]["distance"]) >= 0
        assert float(rows[name]["unet_ms"]) > 0
        assert rows[name]["missing"] == ""
    assert "no weights for the zoo yet" in rows["a-sdm-m2"]["missing"]
    whole, base = (int(rows[n]["parameters"]) for n in ("dpm++", "bk-sdm-base"))
    assert base < int(rows["a-sdm-m1"]["parameters"]) < whole
    assert int(rows["switch-s1"]["parameters"]) == whole + base
    mean = 0.4 * float(rows["bk-sdm-base"]["gmacs"]) + 0.6 * float(rows["dpm++"]["gmacs"])
    assert float(rows["switch-s1"]["gmacs"]) == pytest.approx(mean)
    assert "unspecified in the paper" in (folder / "a-sdm-cost-tiny.md").read_text()
