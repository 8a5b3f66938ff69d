"""A-SDM's four tables on a tiny model of its layout, and distances to real images."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import random_weights
from diffusers import UNet2DConditionModel

from sunbench.bench import Request
from sunbench.metrics import fd
from sunbench.models import ModelCard, find_model
from sunbench.paper import catalogue, real
from sunbench.paper.plan import Job, with_ablation

ASKED = ["--seeds", "1", "--batch", "10", "--device", "cpu", "--images", "10"]
#: Table -> rows that have weights in this world, and one that has none.
TABLES = {
    "a-sdm-1": ({"Base", "Base(with CondConv-e2)", "Tiny"}, "Small"),
    "a-sdm-2": ({"SD-UNet", "M1", "Base-UNet"}, "M2"),
    "a-sdm-3": ({"SD-UNet", "S1", "S2", "S3", "Base-UNet"}, None),
    "a-sdm-4": ({"SDM-v1.4", "BK-SDM-Base", "BK-SDM-Tiny"}, "BK-SDM-Small"),
}


def lines(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.glob("*.csv")
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_runs_with_the_weights_that_there_are(name: str, four_stages: Any):
    """Base's are in the zoo's folder, Tiny's are named, Base's with experts are an ablation."""
    unet = UNet2DConditionModel.from_pretrained(four_stages.root / "tiny" / "unet")
    tiny = random_weights.pruned(unet, four_stages.root / "tiny.safetensors", 3, cut="tiny")
    ablations = four_stages.root / "ablations"
    ablations.mkdir()
    random_weights.pruned(
        unet, ablations / "bk-sdm-base-condconv.safetensors", 4, cut="base", experts=2
    )
    asked = ["--models", four_stages.models, *ASKED, "--ablations", str(ablations)]
    if name in ("a-sdm-1", "a-sdm-4"):
        asked += ["--weights", f"bk-sdm-tiny={tiny}"]
    code, _, said = four_stages.table(name, *asked)
    assert code == 0, said
    rows, (there, absent) = lines(Path("runs/paper") / name / "paper"), TABLES[name]
    assert {r["row"] for r in rows if r["measured"]} == there
    whys = {r["missing"] for r in rows if r["row"] == absent}
    assert all("no weights for the zoo yet" in why for why in whys)
    if name == "a-sdm-1":
        (why,) = {r["missing"] for r in rows if r["row"] == "Tiny(with CondConv-e2)"}
        assert "names the folder of bk-sdm-tiny-condconv.safetensors" in why


# ------------------------------------------------------------------------------ ablations


def test_a_method_without_its_ablation_is_left_out(tmp_path: Path):
    entry = catalogue.find_entry("a-sdm-1")
    part, methods = entry.part("condconv"), entry.methods("condconv")
    named = {"bk-sdm-base@emoji": "mine.safetensors", "bk-sdm-tiny": "other.safetensors"}
    job = Job(part, tmp_path, Request(("emoji",), methods, (25,), weights=named))
    assert with_ablation(job, tmp_path).absent is not None
    file = tmp_path / "bk-sdm-base-condconv.safetensors"
    file.touch()
    changed = with_ablation(job, tmp_path)
    assert changed.request.methods == ("bk-sdm-base",)
    assert changed.request.weights == {"bk-sdm-base": str(file)}
    assert changed.lacking.keys() == {"bk-sdm-small", "bk-sdm-tiny"}
    assert changed.absent is None


# ------------------------------------------------------------------------------ real images


def test_real_images_are_those_of_the_same_prompts():
    entry, card = catalogue.find_entry("a-sdm-2"), find_model("emoji")
    request = Request(("emoji",), ("ddim",), (25,), images=6, seeds=(0, 1))
    features = real.real_features(entry, card, request)
    assert features is not None
    assert features.shape == (6, 128)
    assert np.array_equal(features[::2], features[1::2])
    whole = real.real_features(entry, card, replace(request, images=10))
    assert whole is not None
    assert np.array_equal(whole[:6], features)
    assert real.real_features(entry, card, replace(request, prompts="general")) is None
    assert real.real_features(entry, ModelCard("emoji", "folder", "x"), request) is None
    assert real.real_features(catalogue.find_entry("sun-1"), card, request) is None


def test_the_distance_to_real_images_is_frechets():
    g = np.random.default_rng(0)
    ours, theirs = (g.normal(size=(12, 4)).astype(np.float32) for _ in range(2))
    cell: Any = SimpleNamespace(
        names=lambda start: {f"{start}0"}, feature=lambda name: ours, seeds=2
    )
    e = real.to_real(cell, theirs)
    assert e.value == pytest.approx(float(fd(theirs, ours)))
    assert e.low <= e.value <= e.high
