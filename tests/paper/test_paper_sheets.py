"""The papers' figures from a run's shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sunbench.bench import request
from sunbench.methods.sun import SunAdapter
from sunbench.methods.sun.files import write_adapter
from sunbench.paper.catalogue import find_entry
from sunbench.paper.make import make_figure
from sunbench.paper.plan import Options
from sunbench.paper.sheets import ImageSheet, Strip, draw, write_sheets
from sunbench.store import CellStore

SMALL = ["--device", "cpu", "--batch", "4"]


def options(lab: Any, *cards: str, **more: Any) -> Options:
    return Options(models=cards or lab.cards, **more)


def test_figure_4_has_methods_down_and_steps_beside_the_reference(done):
    run = done.root / "runs/paper/sun-2"
    sheets = make_figure(find_entry("sun-fig-4"), options(done), run, None, reuse=True)
    assert [s.name for s in sheets] == [f"sun-fig-4-{n}" for n in ("one", "two", "three")]
    sheet = sheets[0]
    assert [s.name for s in sheet.strips] == ["DPM-Solver++", "LCM-LoRA", "Guided-Distill", "SUN"]
    assert len(sheet.columns) == 4 * 3
    kinds = [c.splitlines()[-1] for c in sheet.columns[:3]]
    assert kinds == ["4 steps", "8 steps", "reference (5)"]
    assert all(p is not None for p in sheet.strips[0].images)
    assert [m.split(":")[0] for m in sheet.missing] == ["LCM-LoRA", "Guided-Distill", "SUN"]
    store = next(
        s
        for s in (CellStore.open(p.parent) for p in run.glob("cells/*/cell.json"))
        if (s.content["model"], s.content["method"], s.content["steps"]) == ("one", "dpm++", 8)
    )
    assert np.array_equal(sheet.strips[0].images[1], store.read_rows(0, images=True)[0].image)


def test_figure_4_as_typed_writes_pictures_and_captions(done):
    words = ["--models", done.cards[0], "--run", "runs/paper/sun-2", "--out", "sheets"]
    code, out, err = done.table("sun-fig-4", *words, *SMALL)
    assert (code, err) == (0, "")
    assert out.count("missing: ") == 3
    assert {p.name for p in (done.root / "sheets").iterdir()} == {
        f"sun-fig-4-one.{x}" for x in ("png", "pdf", "md")
    }
    with Image.open(done.root / "sheets/sun-fig-4-one.png") as image:
        assert image.width > 1000
    page = (done.root / "sheets/sun-fig-4-one.md").read_text()
    assert "Figure 4 of SpeedUpNet" in page
    assert "Missing: SUN: sun: no weights for the zoo yet" in page


def test_figure_4_without_a_run_makes_a_small_one(lab):
    code, _, err = lab.table("sun-fig-4", "--models", lab.cards[1], *SMALL)
    assert (code, err) == (0, "")
    assert (lab.root / "runs/paper/sun-fig-4/paper/sun-fig-4-two.png").is_file()


@pytest.fixture
def sun(lab: Any, pipeline: Any) -> dict[str, str]:
    """An adapter in which negative prompts act."""
    path = lab.root / "sun.safetensors"
    write_adapter(SunAdapter.for_unet(pipeline.unet, add_pos=True), path)
    return {"sun": str(path)}


def test_figure_5_changes_the_negative_prompt_and_nothing_else(lab, sun):
    from sunbench.bench.progress import NoProgress

    asked = options(lab, lab.cards[0], images=4, weights=sun)
    (sheet,) = make_figure(find_entry("sun-fig-5"), asked, lab.root / "run", NoProgress())
    assert len(sheet.strips) == 4
    assert sheet.strips[0].name == "no negative"
    assert sheet.strips[1].name.startswith("not: ")
    assert sheet.missing == []
    stores = [CellStore.open(p.parent) for p in lab.root.glob("run/*/cells/*/cell.json")]
    first = [s.read_rows(0)[0] for s in stores if s.content["method"] == "sun"]
    assert len({r.noise_hash for r in first}) == 1
    assert len({r.prompt for r in first}) == 1
    assert len({r.negative for r in first}) == 4
    images = [strip.images[2] for strip in sheet.strips]  # SUN's, of the first prompt
    assert not all(np.array_equal(images[0], p) for p in images[1:])


@pytest.mark.parametrize("name", ["sun-fig-5", "sun-fig-6", "sun-fig-7", "sun-fig-8", "sun-fig-9"])
def test_what_is_missing_is_one_line(lab, name: str):
    code, out, err = lab.table(name, "--models", lab.cards[0], *SMALL)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.match(rf"sunbench: {name}: (no SUN adapter|sun: no weights)", err)
    assert not (lab.root / "cache/reference_sets").exists()


def test_figure_6_names_the_tasks_that_are_not_there(lab, monkeypatch):
    monkeypatch.setattr(request, "TASKS", ("text2image",))
    code, _, err = lab.table("sun-fig-6", "--models", lab.cards[0], *SMALL)
    assert code == 2
    assert "needs the tasks image2image, inpaint, controlnet" in err


def test_figure_7_compares_two_adapters(lab, sun, pipeline):
    folder = lab.root / "ablations"
    folder.mkdir()
    other = SunAdapter.for_unet(pipeline.unet, add_pos=True, alpha0=0.2)
    write_adapter(other, folder / "sun-p0.0.safetensors")
    from sunbench.bench.progress import NoProgress

    asked = options(lab, lab.cards[0], images=2, ablations=folder, weights=sun)
    (sheet,) = make_figure(find_entry("sun-fig-7"), asked, lab.root / "run", NoProgress())
    assert [s.name for s in sheet.strips] == ["no MSC (p = 0)", "with MSC (p = 0.1)"]
    assert len(sheet.columns) == 2 * (3 + 1)
    a, b = (s.images for s in sheet.strips)
    assert not np.array_equal(a[0], b[0])
    assert np.array_equal(a[3], b[3])  # the reference


def test_sheets_of_one_file_name_do_not_overwrite_each_other(tmp_path: Path):
    strip = Strip("SUN", (None,), "no adapter")
    sheets = [ImageSheet(f"fig-{m}", f"of {m}", ("a",), (strip,)) for m in ("a b", "a-b", "a/b")]
    write_sheets(sheets, tmp_path)
    pages = {p.stem: p.read_text() for p in tmp_path.glob("*.md")}
    assert {text.splitlines()[2] for text in pages.values()} == {"of a b", "of a-b", "of a/b"}
    assert all(f"]({stem}.png)" in text for stem, text in pages.items())
    assert {p.stem for p in tmp_path.glob("*.png")} == pages.keys()


def test_a_strip_without_pictures_says_why():
    strip = Strip("SUN", (None, None), "no adapter <b>yet</b> $x$")
    figure = draw(ImageSheet("x", "caption", ("a", "b"), (strip,)))
    assert "no adapter <b>yet</b> $x$" in {t.get_text() for t in figure.axes[0].texts}
