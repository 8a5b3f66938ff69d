"""Whole tables of the papers on a tiny world, as typed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunbench.methods.sun import SunAdapter
from sunbench.methods.sun.files import write_adapter
from sunbench.metrics import fd_estimate
from sunbench.paper.numbers import printed
from sunbench.store import CellStore

FEW = ["--images", "8", "--seeds", "2", "--batch", "4", "--device", "cpu"]
ASKED = ["--images", "20", "--seeds", "2", "--batch", "4", "--device", "cpu"]


def records(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def adapter(pipeline: Any, path: Path, alpha: float) -> Path:
    sun_adapter = SunAdapter.for_unet(pipeline.unet, add_pos=True, alpha0=alpha)
    write_adapter(sun_adapter, path)
    return path


# ------------------------------------------------------------------------------ sun-2


def test_the_table_has_the_papers_cells_with_values_intervals_and_reasons(done):
    rows = records(done.root / "runs/paper/sun-2/paper", "sun-2")
    assert [(r["row"], r["model"], r["steps"], r["paper"]) for r in rows] == [
        (p["row"], p["model"], p["steps"], p.text) for p in printed("sun-2")
    ]
    for r in rows:
        assert r["measured_metric"] == "fd[zoo-clip]"
        if r["row"] in ("DDIM", "DPM-Solver++"):
            assert float(r["low"]) <= float(r["high"])
            assert (r["missing"], r["n"]) == ("", "20")
        else:
            assert r["measured"] == ""
            assert "yet" in r["missing"]
    whys = rows[0]["why_not_comparable"]
    for word in (
        "one stands in for Realistic Vision v5.1",
        "fd[zoo-clip] is not Inception FID",
        "the paper's were LAION-Aesthetics-6+",
        "20 images, the paper's 30,000",
        "16x16 pixels, the paper's 512x512",
        "guidance: 3, the paper's 8",
    ):
        assert word in whys


def test_the_page_has_the_papers_shape(done):
    text = (done.root / "runs/paper/sun-2/paper/sun-2.md").read_text()
    table = [x for x in text.splitlines() if x.startswith("|")]
    assert len(table) == 2 + 2 * 5
    assert {x.count("|") for x in table} == {2 + 6 + 1}
    assert "Rev Animated 8 steps" in table[0]
    assert "| DDIM | paper | 25.32 | 21.94 |" in table[2]
    assert re.search(r"\| here \| \d", table[3])
    assert "n/a (a)" in table[7]
    assert "(a) guided-distill: no weights for the zoo yet" in text
    assert "Floor of one (reference against itself at other seeds, 20 images)" in text
    assert "Order of rows: of 6 pairs" in text
    assert "(1) implausibly far" in text


def test_the_latex_has_the_papers_shape(done):
    text = (done.root / "runs/paper/sun-2/paper/sun-2.tex").read_text()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [x for x in body.splitlines() if x.endswith(r"\\")]
    assert len(lines) == 1 + 2 * 5
    assert {len(re.findall(r"(?<!\\)&", x)) for x in lines} == {7}
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))


def test_again_makes_nothing_and_changes_nothing(done):
    folder = done.root / "runs/paper/sun-2"
    before = {f.name: f.read_bytes() for f in (folder / "paper").iterdir()}
    marks = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/shard*")}
    code, out, err = done.table("sun-2", "--models", done.models, "--run", str(folder))
    assert (code, err) == (0, "")
    assert "DPM-Solver++" in out
    assert {f.name: f.read_bytes() for f in (folder / "paper").iterdir()} == before
    assert {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/shard*")} == marks


def test_a_run_that_is_given_keeps_its_rows_and_gets_what_is_missing(done):
    folder, one = done.root / "mine", done.cards[0]
    words = ["--models", one, "--methods", "unipc", "--steps", "2", "--out", str(folder), *ASKED]
    assert done.call("run", *words)[0] == 0
    code, _, err = done.table("sun-2", "--models", one, "--run", str(folder), "--device", "cpu")
    assert (code, err) == (0, "")
    document = json.loads((folder / "run.json").read_text())
    assert document["request"]["methods"][:3] == ["unipc", "ddim", "dpm++"]
    assert document["request"]["steps"] == [2, 4, 8]
    assert document["request"]["images"] == 20
    assert {r["n"] for r in records(folder / "paper", "sun-2")} == {"20"}
    assert {r["model"] for r in records(folder / "paper", "sun-2")} == {"Realistic Vision v5.1"}


def test_a_run_with_other_settings_is_refused_in_one_line(done):
    folder = str(done.root / "runs/paper/sun-2")
    words = ["--models", done.cards[0], "--run", folder, "--images", "10", "--seeds", "2"]
    code, out, err = done.table("sun-2", *words)
    assert (code, out) == (2, "")
    assert "made with images 20, asked for 10" in err
    assert err.count("\n") == 1


# ------------------------------------------------------------------------------ others


def test_sun_1_has_fid_and_clip_on_the_papers_scale(lab):
    code, _, err = lab.table("sun-1", "--models", lab.cards[0], *FEW)
    assert (code, err) == (0, "")
    rows = records(lab.root / "runs/paper/sun-1/paper", "sun-1")
    assert len(rows) == 36
    clip = [r for r in rows if r["metric"] == "clip" and r["measured"]]
    assert len(clip) == 6
    assert {r["measured_metric"] for r in clip} == {"clip_score[zoo-clip]"}
    assert all(-1 <= float(r["measured"]) <= 1 for r in clip)
    assert "which CLIP the paper took is unsaid" in clip[0]["why_not_comparable"]
    fid = next(r for r in rows if r["metric"] == "fid")
    assert "the paper measured to photographs" in fid["why_not_comparable"]
    assert "copied from LCM" in fid["paper_doubt"]


def test_boostdiff_measures_the_bare_teacher_by_the_guided_reference(lab):
    code, _, err = lab.table("boostdiff-1", "--models", lab.cards[0], *FEW)
    assert (code, err) == (0, "")
    root = lab.root / "runs/paper/boostdiff-1"
    rows = {(r["row"], r["steps"]): r for r in records(root / "paper", "boostdiff-1")}
    assert len(rows) == 16
    missing = rows["LoRA-R8 · DDIM · 1.0", "20"]["missing"]
    assert missing.startswith("boostdiff-lora: no weights for the zoo yet")
    bare = rows["teacher · DDIM · 1.0", "20"]
    stores = [CellStore.open(p.parent) for p in lab.root.glob("cache/reference_sets/*/cell.json")]
    guided = next(
        s for s in stores if s.content["guidance_scale"] == 3.0 and min(s.content["seeds"]) == 0
    )
    candidate = CellStore.open(root / "no-cfg/cells" / bare["key"])
    assert candidate.content["guidance_scale"] == 1.0
    a, b = (
        np.concatenate(
            [
                s.read_features(k, next(n for n in s.feature_names(0) if n.startswith("embed")))
                for k in range(2)
            ]
        )
        for s in (guided, candidate)
    )
    expected = fd_estimate(a, b, np.arange(8) // 2)
    assert float(bare["measured"]) == pytest.approx(expected.value, rel=1e-6)
    own = json.loads((root / "no-cfg/results.json").read_text())["rows"]
    there = next(r for r in own if r["key"] == bare["key"] and r["metric"] == "fd[zoo-clip]")
    assert float(bare["measured"]) != pytest.approx(there["value"])


def test_sun_4_takes_each_row_from_its_own_adapter(lab, pipeline):
    folder = lab.root / "ablations"
    folder.mkdir()
    adapter(pipeline, folder / "sun-p0.0.safetensors", 0.5)
    own = f"sun={adapter(pipeline, lab.root / 'sun.safetensors', 1.0)}"
    words = ["--models", ",".join(lab.cards[:2]), "--ablations", str(folder), "--weights", own]
    words += FEW
    code, _, err = lab.table("sun-4", *words)
    assert (code, err) == (0, "")
    rows = records(lab.root / "runs/paper/sun-4/paper", "sun-4")
    assert len(rows) == 12
    by_row = {n: [r for r in rows if r["row"] == n] for n in ("p = 0.0", "p = 0.1", "p = 0.25")}
    assert all(r["measured"] for n in ("p = 0.0", "p = 0.1") for r in by_row[n])
    assert by_row["p = 0.0"][0]["measured"] != by_row["p = 0.1"][0]["measured"]
    assert all("trained with p = 0.25 yet" in r["missing"] for r in by_row["p = 0.25"])


def test_sun_4_without_any_adapter_samples_nothing(lab):
    code, _, _ = lab.table("sun-4", "--models", lab.cards[0], *ASKED)
    assert code == 0
    rows = records(lab.root / "runs/paper/sun-4/paper", "sun-4")
    assert "no weights for the zoo yet" in rows[2]["missing"]
    assert not (lab.root / "cache/reference_sets").exists()


# ------------------------------------------------------------------------------ mistakes

MISTAKES = [
    (["sun-5"], "unknown paper table 'sun-5'; did you mean 'sun-4'?"),
    (["boostdif-1"], "did you mean 'boostdiff-1'?"),
    (["asdm-2"], "did you mean 'a-sdm-2'?"),
    (["sun-2", "--models", "emoij-3d"], "did you mean 'emoji-3d'?"),
    (["sun-1", "--models", "emoji,emoji-3d"], "given 2 models, expected at most 1"),
    (["sun-2", "--images", "20"], "given 20 images, expected a multiple of the 3 seeds"),
    (["sun-3", "--models", "emoij"], "did you mean 'emoji'?"),
    (["sun-fig-4", "--run", "nothing"], "given --run nothing, expected the folder"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_mistakes_are_one_line(lab, words: list[str], line: str):
    code, out, err = lab.call("paper", *words, *(["--device", "cpu"] * (len(words) > 1)))
    assert code == 2
    assert line in err
    assert err.count("\n") == 1
    assert out == ""


def test_list_names_everything(lab):
    code, out, _ = lab.call("paper", "list")
    assert code == 0
    for word in (
        "sun-2",
        "sun-3",
        "sun-fig-9",
        "boostdiff-1",
        "ready",
    ):
        assert word in out
    assert "a-sdm-2" in out
