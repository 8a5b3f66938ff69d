"""The measure of negative prompts: what is named, what is absent, zero by construction."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_weights
import torch
from PIL import Image

from sunbench.errors import UserError
from sunbench.metrics import Estimate
from sunbench.metrics.networks.zoo_clip import ZooClip
from sunbench.prompts import Prompt
from sunbench.reference_sets import Recipe
from sunbench.studies.negative_cases import file_cases, zoo_cases
from sunbench.studies.negative_data import NegativeRow, Negatives, NegativesRequest
from sunbench.studies.negative_prompts import measure, share_estimate
from sunbench.studies.negative_tables import csv_of, markdown, write
from sunbench.zoo.world.captions import colors, held_out_prompts


@pytest.fixture(autouse=True)
def _short_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sunbench.studies.negative_prompts.recipe_for", lambda model: Recipe(model=model, steps=3)
    )


@pytest.fixture
def zoo_card(lab: Any, tmp_path: Path) -> Path:
    """The tiny model at the zoo's resolution, with the zoo's captions."""
    text = lab.world.card.read_text().replace("resolution = 16", "resolution = 64")
    lines = ['prompts = "zoo"' if x.startswith("prompts") else x for x in text.splitlines()]
    card = tmp_path / "zoo.toml"
    card.write_text("\n".join(lines) + "\n")
    return card


@pytest.fixture
def lora(lab: Any, tmp_path: Path) -> dict[str, str]:
    """A random LCM-LoRA: a method without a negative prompt."""
    from diffusers import UNet2DConditionModel

    from sunbench.methods.lcm.lora import TARGETS

    unet = UNet2DConditionModel.from_pretrained(lab.world.card.parent / "tiny" / "unet")
    path = random_weights.lora(unet, tmp_path / "lora.safetensors", TARGETS, 1)
    return {"lcm-lora": str(path)}


def request(card: Path, **changes: Any) -> NegativesRequest:
    defaults: dict[str, Any] = {
        "models": (str(card),),
        "methods": ("ddim", "lcm-lora", "sun"),
        "steps": (2,),
        "images": 4,
        "batch": 3,
    }
    return NegativesRequest(**{**defaults, **changes})


def test_zoo_cases_name_what_the_caption_says_and_what_it_does_not():
    cases = zoo_cases(30)
    both = [p for p in held_out_prompts() if p.mention.color and p.mention.thing][:30]
    assert [r.text for r in cases.rows] == [p.text for p in both]
    color, thing = cases.kinds
    for row, named, absent, prompt in zip(cases.rows, color.named, color.absent, both, strict=True):
        name = colors()[prompt.scene.color][0]
        assert named.split()[1] == name
        assert f" {name} " in row.text
        assert absent != named
        assert f" {absent.split()[1]} " not in row.text
    assert all(n.split(" ", 1)[1] in r.text for n, r in zip(thing.named, cases.rows, strict=True))
    assert all(a != n for a, n in zip(thing.absent, thing.named, strict=True))
    assert len(set(color.absent)) > 3
    assert zoo_cases(30).kinds[0].absent == color.absent


def test_color_and_thing_are_read_off_images(lab: Any):
    cases = zoo_cases(3)
    (_, color), (_, thing) = (k.readers[0] for k in cases.kinds)
    chosen = [p for p in held_out_prompts() if p.mention.color and p.mention.thing][:3]
    images = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    for i, prompt in enumerate(chosen):
        images[i] = torch.tensor(colors()[prompt.scene.color][1])[:, None, None]
    scorer = ZooClip(lab.world.weights / "scorer")
    assert color(images, [0, 1, 2], scorer).tolist() == [1, 1, 1]
    other = next(i for i in (1, 2) if chosen[i].scene.color != chosen[0].scene.color)
    assert color(images[:1], [other], scorer).tolist() == [0]
    assert set(thing(images, [0, 1, 2], scorer).tolist()) <= {0.0, 1.0}


def test_a_method_without_negatives_falls_by_exactly_zero(
    zoo_card: Path, lora: dict[str, str], tmp_path: Path
):
    (measured,) = measure(request(zoo_card, weights=lora), tmp_path / "out")
    rows = {(r.method, r.kind, r.measure): r for r in measured.rows}
    assert len(rows) == 4 * 2 * 2
    for (method, _, _), row in rows.items():
        if method == "sun":
            assert "no weights for the zoo" in row.reason
        elif method == "lcm-lora":
            assert row.change.value == row.change.low == row.change.high == 0
            assert row.absent.value == 0
            assert row.baseline == row.negated
            assert row.nfe == 2
        else:
            assert row.change.low <= row.change.value <= row.change.high
            assert row.change.value == pytest.approx(row.negated - row.baseline, abs=1e-9)
    assert rows["dpm++", "thing", "CLIP score"].nfe == 6  # three steps under CFG
    assert rows["dpm++", "thing", "CLIP score"].change.value != 0
    labels = [s.label for s in measured.columns]
    assert labels == ["dpm++ 3", "ddim 2", "lcm-lora 2"]
    by_label = {s.label: s for s in measured.columns}
    assert torch.equal(by_label["lcm-lora 2"].baseline, by_label["lcm-lora 2"].negated)
    assert not torch.equal(by_label["ddim 2"].baseline, by_label["ddim 2"].negated)


def test_batches_change_nothing(zoo_card: Path, tmp_path: Path):
    small = {"methods": ("ddim",), "images": 2, "steps": (1,)}
    (few,) = measure(request(zoo_card, **small, batch=1), tmp_path / "few")
    (many,) = measure(request(zoo_card, **small, batch=64), tmp_path / "many")
    gap = few.columns[1].negated.int() - many.columns[1].negated.int()
    assert int(gap.abs().max()) <= 1
    for a, b in zip(few.rows, many.rows, strict=True):
        if a.measure == "CLIP score":
            assert a.change.value == pytest.approx(b.change.value, abs=0.02)


def test_files_tables_and_sheet(zoo_card: Path, tmp_path: Path):
    asked = request(zoo_card, methods=("sun",))
    measured = list(measure(asked, tmp_path / "out"))
    write(tmp_path / "out", asked, measured)
    page = (tmp_path / "out/negatives.md").read_text()
    assert page == markdown(measured)
    for word in (
        "color read off the image",
        "thing read off the image",
        "no weights for the zoo",
        "change relative to CFG's",
    ):
        assert word in page
    assert str(tmp_path) not in page
    rows = list(csv.DictReader(csv_of(measured).splitlines()))
    assert len(rows) == len(measured[0].rows)
    assert {r["n"] for r in rows} == {"4"}
    first = measured[0].rows[0]
    assert float(rows[0]["change_low"]) == first.change.low
    with Image.open(tmp_path / "out/negatives-tiny.png") as page_image:
        assert page_image.width > 2 * 128
        assert page_image.height > 8 * 128  # four prompts of each sort
    twins = [replace(measured[0], model=name) for name in ("a b", "a-b")]
    write(tmp_path / "twins", asked, twins)
    sheets = {p.name for p in (tmp_path / "twins").glob("*.png")}
    assert len(sheets) == 2
    assert all(f"]({name})" in markdown(twins) for name in sheets)


# ------------------------------------------------------------------------------ other prompts


def test_concepts_from_a_file(lab: Any, tmp_path: Path):
    file = tmp_path / "concepts.csv"
    file.write_text("prompt,negative_prompt\na red boat,boat\na teal cat,cat\na drum,boat\n")
    asked = request(
        lab.world.card, methods=("ddim",), images=6, seeds=(0, 1), prompts=str(file), steps=(1,)
    )
    (measured,) = measure(asked, tmp_path / "out")
    assert measured.captions == [("a red boat", "boat"), ("a teal cat", "cat"), ("a drum", "boat")]
    assert [(r.kind, r.measure) for r in measured.rows] == [("concept", "CLIP score")] * 2
    assert {r.change.n for r in measured.rows} == {6}


def test_absent_concepts_are_the_next_that_differs():
    rows = tuple(Prompt(str(i), "x", n) for i, n in enumerate(["a", "a", "b"]))
    (kind,) = file_cases(rows, "f").kinds
    assert kind.absent == ("b", "b", "a")


def test_mistakes_are_told(lab: Any, tmp_path: Path):
    with pytest.raises(UserError, match="given no prompts, expected a file"):
        list(measure(request(lab.world.card), tmp_path / "out"))
    with pytest.raises(UserError, match="no negative prompt beside 'x'"):
        file_cases((Prompt("0", "x"), Prompt("1", "y", "z")), "f")
    with pytest.raises(UserError, match="the one concept 'z'"):
        file_cases((Prompt("0", "x", "z"), Prompt("1", "y", "z")), "f")
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        request(lab.world.card, methods=("dimm",))
    with pytest.raises(UserError, match="given 3 images, expected a multiple of the 2 seeds"):
        request(lab.world.card, images=3, seeds=(0, 1))
    with pytest.raises(UserError, match="given no steps"):
        request(lab.world.card, steps=())


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": float("nan")},
        {"guidance_scale": -5.0},
        {"seeds": (-1, 2)},
        {"seeds": (1, 1)},
        {"steps": (2, 2)},
        {"models": ("emoji", "emoji")},
        {"dtype": "float8"},
        {"batch": 0},
    ],
)
def test_a_request_is_checked_as_a_runs_is(lab: Any, change: dict[str, Any]):
    with pytest.raises(UserError, match=r"given .*, expected "):
        request(lab.world.card, **change)


def test_the_folder_is_checked_before_anything_is_measured(lab: Any, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match=r"holds 'thesis\.txt' and no run"):
        next(measure(request(Path("no-such-model")), tmp_path / "mine"))
    with pytest.raises(UserError, match="cannot write the run to"):
        next(measure(request(Path("no-such-model")), tmp_path / "mine/thesis.txt"))


def test_a_study_resumes_from_its_cells(zoo_card: Path, tmp_path: Path):
    small = request(zoo_card, methods=("ddim",), images=2, steps=(1,))
    (first,) = measure(small, tmp_path / "out")
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/cells").rglob("*.parquet")}
    assert len(shards) == 2 * (1 + 2 * 2)  # plain, and two kinds x named and absent, twice
    (again,) = measure(small, tmp_path / "out")
    assert again.rows == first.rows
    assert {p: p.stat().st_mtime_ns for p in shards} == shards


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (1.43, 1.3, 1.6, "0.43 (overshoots)"),
        (0.6, 0.5, 0.7, "0.40 (too little)"),
        (1.1, 0.9, 1.3, "0.10"),
    ],
)
def test_an_overshoot_is_as_far_off_as_a_shortfall(
    value: float, low: float, high: float, text: str
):
    change = Estimate(-1.0, -1.1, -0.9, 4)
    row = NegativeRow(
        *("m", "sun", 4, "thing", "CLIP score", 4.0, 80.0, 79.0),
        change=change,
        absent=change,
        relative=Estimate(value, low, high, 4),
    )
    page = markdown([Negatives("![x](http://y)", {}, "zoo", 4, [row], [], [])])
    assert f"| {text} |" in page
    assert "![x](" not in page


def test_share_of_the_references_fall():
    clusters = np.arange(40) // 2
    of = 1 + np.random.default_rng(0).normal(size=40) / 10
    half = share_estimate(of / 2, of, clusters)
    assert half is not None
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert share_estimate(of, of - 1, clusters) is None
