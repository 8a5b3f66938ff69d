"""Sizes of networks, and the table that A-SDM's paper lacks, on a tiny model of its layout."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from sunbench.paper.cost import _shown, macs_of, size_of


def test_sizes_are_counted(deep: Any):
    size = size_of(deep.unet, 24)
    assert size.parameters == sum(p.numel() for p in deep.unet.parameters())
    assert size.macs == macs_of(deep.unet, 24) > 0
    assert macs_of(deep.unet, 48) > size.macs
    assert deep.unet.device.type == "cpu"


def test_times_in_doubt_are_marked():
    names = ("parameters", "gmacs", "nfe", "unet_ms", "unet_speed_up", "image_ms", "speed_up")
    record: dict[str, Any] = dict.fromkeys(names, 2.0)
    record |= {"method": "ddim", "parameters": 9, "distance": 0.5, "low": None, "high": None}
    shown = _shown(record, "", " (a)")
    assert [cell.endswith(" (a)") for cell in shown] == [False] * 3 + [True] * 4 + [False]


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


ASKED = ["--seeds", "1", "--batch", "10", "--device", "cpu", "--images"]


@pytest.mark.slow
def test_the_table_has_every_network(four_stages: Any):
    asked = ["--models", four_stages.models, *ASKED, "4"]
    assert four_stages.table("a-sdm-cost", *asked)[0] == 0
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
    assert rows["switch-s1"]["networks"] == "bk-sdm-base model"
    assert rows["switch-s1"]["nfe_by_network"] == "20 + 30"
    assert "unspecified in the paper" in (folder / "a-sdm-cost-tiny.md").read_text()
