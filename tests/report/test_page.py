"""The page: what it says, that data stays data, that it works in a browser without a network."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sunbench.cli import main
from sunbench.errors import UserError
from sunbench.report.html import gallery
from sunbench.report.html.gallery import Album, extremes, sample, thumbnail
from sunbench.report.html.page import json_text, write_page
from sunbench.store import RunFolder

Finished = Callable[..., RunFolder]


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(Elements(page.read_text(encoding="utf-8")).scripts[0])


# ------------------------------------------------------------------------------ the file


def test_the_page_is_one_file_that_asks_for_nothing_else(finished: Finished):
    page = write_page(finished())
    elements = Elements(page.read_text(encoding="utf-8"))
    links = [(t, a.get(n)) for t, a in elements.tags for n in ("src", "href", "srcset") if n in a]
    assert links == [("a", "#answer")]
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "url(" not in page.read_text(encoding="utf-8")


def test_names_and_reasons_cannot_become_markup(finished: Finished):
    elements = Elements(write_page(finished()).read_text(encoding="utf-8"))
    assert [t for t, _ in elements.tags if t in ("i", "b", "s", "u", "em", "tt", "svg", "img")] == [
        "img",  # the two of the slider
        "img",
    ]
    assert len(elements.scripts) == 2
    assert "other <i>model</i>" in "".join(elements.words)


def test_json_cannot_end_its_script_element_and_reads_back():
    value = {"a": "</script><!--<script>\u2028\u2029&amp;", "n": [1.5, None]}
    text = str(json_text(value))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_the_answer_stands_in_the_file_without_a_script(finished: Finished):
    words = " ".join("".join(Elements(write_page(finished()).read_text()).words).split())
    assert "On the front of latency against perceptual[zoo-clip]: dpm++ at 4 steps" in words
    assert "Not distinguishable: ddim at 8 steps and dpm++ at 8 steps" in words
    assert "measured on a <tt>CPU</tt>, 2 threads" in words


def test_the_same_run_gives_the_same_file(finished: Finished):
    run = finished()
    assert write_page(run).read_bytes() == write_page(run).read_bytes()


def test_an_unfinished_folder_is_said(tmp_path: Path):
    with pytest.raises(UserError, match=r"results\.json is missing"):
        write_page(RunFolder(tmp_path))


def test_the_commands(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = finished(names=("tiny",))

    def say(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sunbench", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), capsys.readouterr().out

    code, said = say("report", str(run.path), "--html")
    assert (code, said) == (0, f"Page: {run.path / 'report.html'}\n")
    assert (run.path / "report.html").exists()
    code, said = say("pick", str(run.path), "--max-latency-ms", "15")
    assert code == 0
    assert said.startswith("tiny: With at most 15.00 ms, the closest is dpm++ at 4 steps (14.40 ms")
    code, said = say("pick", str(run.path))
    assert code == 0
    assert said.startswith("tiny: dpm++ at ")
    assert "Recommended: the best balance of latency and distance" in said
    code, said = say("pick", str(run.path), "--max-latency-ms", "1")
    assert code == 1
    assert "none. The fastest is" in said
    assert say("report", str(run.path), "--cards") == (2, "")  # nothing trained in it
    assert say("pick", str(run.path), "--max-distance", "1", "--metric", "lpisp") == (2, "")


# ------------------------------------------------------------------------------ images


def test_pictures_are_lossless_and_of_the_image_they_stand_for(finished: Finished):
    data = data_of(write_page(finished()))
    shown = data["models"][0]["gallery"]
    assert shown["cells"] == [
        "ddim at 4 steps",
        "ddim at 8 steps",
        "dpm++ at 4 steps",
        "dpm++ at 8 steps",
    ]
    assert shown["notes"] == []
    assert len(shown["items"]) == 8
    one = shown["items"][3]
    uri = data["images"][one["images"][1]]
    raw = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    assert pixels[0, 0].tolist() == [40 + 50 * 3, 60 + 30, 90 * (one["seed"] + 1)]


def test_best_and_worst_come_from_all_images_each_prompt_once(finished: Finished):
    best, worst = data_of(write_page(finished()))["models"][0]["gallery"]["extremes"][0]
    assert [e["index"] for e in best] == [0, 2, 4, 6]
    assert [e["index"] for e in worst] == [15, 13, 11, 9]
    assert best[0]["score"] == pytest.approx(0.4)


def test_pictures_that_were_not_kept_are_said(finished: Finished):
    section = data_of(write_page(finished(keep=False)))["models"][0]["gallery"]
    assert "ddim at 4 steps: its images were not kept." in section["notes"]
    assert section["items"][0]["images"][0] is not None
    assert section["items"][0]["images"][1:] == [None] * 4


def test_a_lost_reference_and_a_lost_shard_are_said(finished: Finished, tmp_path: Path):
    run = finished()
    shutil.rmtree(tmp_path / "cache" / "reference_sets")
    shard = next((run.path / "cells").glob("*/shard-00000.json"))
    for manifest in shard.parent.glob("shard-*.json"):
        manifest.unlink()
    models = data_of(write_page(run))["models"]
    notes = [n for m in models for n in m["gallery"]["notes"]]
    lost = [
        n for n in notes if n.endswith("its shards are gone or broken, so it has no images here.")
    ]
    assert len(lost) == 3
    assert "reference at 25 steps: its shards" in lost[0]
    assert len(models[0]["gallery"]["items"]) == 8


def test_a_broken_picture_file_does_not_stop_the_page(finished: Finished):
    run = finished()
    file = next((run.path / "cells").glob("*/shard-00000.parquet"))
    file.write_bytes(b"not parquet")
    notes = [n for m in data_of(write_page(run))["models"] for n in m["gallery"]["notes"]]
    assert len(notes) == 1
    assert list(run.path.rglob("*.broken")) == []


def test_pictures_of_other_noise_are_left_out(finished: Finished, monkeypatch: pytest.MonkeyPatch):
    run = finished()
    monkeypatch.setattr(gallery, "mispaired", lambda a, b: a[0].index == 0)
    section = data_of(write_page(run))["models"][0]["gallery"]
    assert (
        "ddim at 4 steps: images that started from other noise were left out." in section["notes"]
    )
    assert section["extremes"][0][0][0]["images"][1] is None


@pytest.mark.parametrize(("images", "seeds"), [(1, 1), (6, 3), (64, 1), (300, 2), (30000, 3)])
def test_a_sample_is_seeded_small_and_from_few_places(images: int, seeds: int):
    chosen = sample(images, seeds)
    assert chosen == sample(images, seeds)
    assert len({i // seeds for i in chosen}) == len(chosen) <= gallery.PROMPTS
    assert len({i // gallery.BLOCK for i in chosen}) <= gallery.BLOCKS
    assert len(chosen) == min(images // seeds, gallery.PROMPTS)


def test_extremes_skip_what_has_no_score_and_never_overlap():
    scores = np.array([3.0, np.nan, 1.0, 2.0, 9.0, np.nan])
    assert extremes(scores, 1) == ([2, 3], [4, 0])
    assert extremes(scores[:1], 1) == ([], [])
    assert extremes(np.full(4, np.nan), 1) == ([], [])


def test_thumbnails_shrink_and_never_grow():
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    assert Image.open(io.BytesIO(thumbnail(image, 96))).size == (64, 96)
    small = Image.open(io.BytesIO(thumbnail(image, 512)))
    assert np.array_equal(np.asarray(small.convert("RGB")), image)


def test_a_full_album_refuses_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "MOST_BYTES", 1500)
    album, image = Album(64), np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert album.add("a", image) == "a"
    assert album.add("b", image) is None
    assert album.add("a", image) == "a"
    assert album.full


def test_pictures_shrink_until_the_page_fits(finished: Finished, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "BUDGET_BYTES", 1)
    monkeypatch.setattr(gallery, "SIDES", (16, 8))
    text = write_page(finished()).read_text(encoding="utf-8")
    assert "at most 8 pixels per side" in text


# ------------------------------------------------------------------------------ the browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=4000",
    "--dump-dom",
]

DRIVE = """<script>
const said = {errors: []};
addEventListener("error", (e) => said.errors.push(e.message));
const $ = (id) => document.getElementById(id);
const set = (id, value, event) => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
const shown = () => [...document.querySelectorAll("[data-model]")].filter((e) => !e.hidden);
setTimeout(() => {
  said.title = document.title;
  said.points = document.querySelectorAll(".point").length;
  said.reachable = document.querySelectorAll(".point[tabindex='0'][aria-label]").length;
  said.label = document.querySelector(".point").getAttribute("aria-label");
  set("limit", 0.3, "input");
  said.fastest = $("fastest").textContent;
  set("metric", 1, "change");
  said.axis = $("chart-what").textContent;
  said.noPairs = $("no-pairs").hidden;
  set("metric", 0, "change");
  set("slider", 25, "input");
  said.clip = $("wipe-over").style.clipPath;
  said.left = $("wipe-line").style.left;
  said.spoken = $("slider").getAttribute("aria-valuetext");
  said.prompts = [];
  for (let i = 0; i < 4; i++) { said.prompts.push($("prompt-text").textContent); $("next").click(); }
  $("previous").click();
  said.backAt = $("prompt").value;
  set("right", 3, "change");
  said.right = $("wipe-under").alt;
  document.querySelectorAll("#strip button")[2].click();
  said.pressed = [...document.querySelectorAll("#strip button")].map((b) => b.getAttribute("aria-pressed"));
  set("extreme-cell", 2, "change");
  said.best = $("best").children.length;
  set("model", 1, "change");
  said.model = [...new Set(shown().map((e) => e.dataset.model))];
  said.markup = document.querySelectorAll("main b, main i, main u, main svg[onload], main script").length;
  said.wide = document.documentElement.scrollWidth - innerWidth;
  said.unlabeled = [...document.querySelectorAll("select, input")].filter((e) => !e.labels.length).map((e) => e.id);
  const steps = () => [...document.querySelector("[data-model]:not([hidden]) table.sortable").tBodies[0].rows].map((r) => r.cells[1].textContent);
  const sorter = document.querySelector("[data-model]:not([hidden]) table.sortable").tHead.rows[0].cells[1];
  said.sorted = [];
  for (let i = 0; i < 2; i++) { sorter.querySelector("button").click(); said.sorted.push([sorter.getAttribute("aria-sort"), ...steps()]); }
  said.example = document.querySelectorAll("[data-example] img").length;
  said.star = document.querySelectorAll("#chart path.reference").length;
  said.broken = [...document.images].filter((i) => i.src && i.complete && !i.naturalWidth).length;
  const out = document.createElement("pre");
  out.id = "said";
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(said))));
  document.body.append(out);
}, 300);
</script>"""


def browse(page: Path, profile: Path, width: int = 1200) -> tuple[str, str]:
    """The page's final document and what the browser wrote to its console."""
    assert BROWSER is not None, "no chromium on this machine"
    words = [BROWSER, *FLAGS, f"--window-size={width},900", f"--user-data-dir={profile}"]
    done = subprocess.run([*words, page.as_uri()], capture_output=True, text=True, timeout=60)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, "\n".join(console)


def drive(page: Path, folder: Path, width: int = 1200) -> dict[str, Any]:
    """What a script finds that is put into a copy of the page, its policy opened for that."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"script-src '[^']+'", "script-src 'unsafe-inline'", text, count=1)
    copy = folder / "driven.html"
    copy.write_text(text.replace("</body>", DRIVE + "</body>"), encoding="utf-8")
    document, _ = browse(copy, folder / f"profile-{width}", width)
    match = re.search(r'<pre id="said">([^<]+)</pre>', document)
    assert match is not None, document[-2000:]
    return json.loads(base64.b64decode(match[1]))


#: In CI a missing browser is a failure, not a skip.
needs_browser = pytest.mark.skipif(
    BROWSER is None and os.environ.get("CI", "") in ("", "false", "0"),
    reason="no chromium on this machine",
)


@needs_browser
def test_the_page_opens_offline_without_a_word_on_the_console(finished: Finished, tmp_path: Path):
    document, console = browse(write_page(finished()), tmp_path / "profile")
    assert console == ""
    assert 'class="point"' in document


@needs_browser
def test_a_script_that_is_not_the_page_s_own_does_not_run(finished: Finished, tmp_path: Path):
    copy = tmp_path / "copy.html"
    text = write_page(finished()).read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", "<script>document.title='owned'</script></body>"))
    document, console = browse(copy, tmp_path / "profile")
    assert "Content Security Policy" in console
    assert "<title>owned" not in document


@needs_browser
def test_switches_slider_and_hostile_prompts_in_a_browser(finished: Finished, tmp_path: Path):
    said = drive(write_page(finished()), tmp_path)
    assert said["errors"] == []
    assert said["title"] == "sunbench: tiny, other <i>model</i>"
    assert said["points"] == said["reachable"] == 4
    assert said["label"].startswith(
        "ddim at 4 steps: 14.40 ms, 8 NFE, perceptual[zoo-clip] 0.4000 ["
    )
    assert said["fastest"].startswith("dpm++ at 4 steps: 14.40 ms")
    assert "ssim: structural similarity" in said["axis"]
    assert said["noPairs"] is False
    assert said["clip"] == "inset(0px 75% 0px 0px)"
    assert said["left"] == "25%"
    assert said["spoken"] == "25 % reference at 25 steps, 75 % ddim at 4 steps"
    for prompt in ("<script>document.title='owned'</script>", "<img src=x", "{{ 7 * 7 }}"):
        assert any(prompt in text for text in said["prompts"])
    assert "not: <u>blurry</u>" in said["prompts"][0]
    assert said["backAt"] == "3"
    assert said["right"] == "Right: dpm++ at 4 steps"
    assert said["pressed"] == ["false", "false", "true", "false", "false"]
    assert said["best"] == 4
    assert said["model"] == ["other <i>model</i>"]
    assert said["markup"] == 0
    assert said["unlabeled"] == []
    assert said["broken"] == 0
    assert said["sorted"] == [
        ["ascending", "4", "4", "8", "8"],
        ["descending", "8", "8", "4", "4"],
    ]
    assert said["example"] == 4  # a pair per model
    assert said["star"] == 1  # the reference is in the chart


@needs_browser
def test_nothing_is_wider_than_a_narrow_window(finished: Finished, tmp_path: Path):
    assert drive(write_page(finished()), tmp_path, 500)["wide"] <= 0


@needs_browser
def test_a_page_without_pictures_still_opens(finished: Finished, tmp_path: Path):
    run = finished(keep=False)
    shutil.rmtree(tmp_path / "cache" / "reference_sets")
    document, console = browse(write_page(run), tmp_path / "profile")
    assert console == ""
    assert "its images were not kept" in document
    assert 'class="point"' in document


@needs_browser
def test_without_latencies_the_chart_is_over_evaluations(finished: Finished, tmp_path: Path):
    run = finished()
    run.write_results(replace(run.read_results_document(), timing=()))
    page = write_page(run)
    assert "moves tiny images least: perceptual[zoo-clip]" in page.read_text(encoding="utf-8")
    assert "No latency was measured." in page.read_text(encoding="utf-8")
    document, console = browse(page, tmp_path / "profile")
    assert console == ""
    assert document.count('class="point"') == 4
    assert "U-Net evaluations per image (logarithmic)" in document
    assert "Distance against U-Net evaluations" in document
    assert re.search(r'aria-label="ddim at 4 steps: 8 NFE, perceptual', document)
