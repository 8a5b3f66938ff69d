"""SUN's Table 3: every row as a network of its shape, in turns."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
import torch

from sunbench.errors import UserError
from sunbench.paper import timing_page
from sunbench.paper.arms import Arm, arms
from sunbench.paper.catalogue import find
from sunbench.paper.numbers import printed
from sunbench.paper.timing import (
    SHAPES,
    _inputs,
    asked,
    measure,
    pipeline_of,
    random_pipeline,
    ratio,
    spread,
    turns,
)

ROWS = {
    "DPM-Solver++ (25)": 50,
    "DPM-Solver++ (25) unbatched": 50,
    "DPM-Solver++ (4)": 8,
    "Guided-Distill (4)": 4,
    "LCM-LoRA (4)": 4,
    "LCM-LoRA (4) fused": 4,
    "SUN (4)": 4,
    "SUN (4) released form": 4,
}


@pytest.fixture(scope="module")
def ready(pipeline: Any) -> dict[str, Arm]:
    return {a.row: a for a in arms(pipeline)}


def latents(arm: Arm, pipeline: Any) -> torch.Tensor:
    return arm.sampler.sample(_inputs(pipeline, 16)[0])


def test_every_row_of_the_paper_is_there_with_its_evaluations(ready, pipeline):
    assert {p["row"] for p in printed("sun-3")} <= ROWS.keys()
    for arm in ready.values():
        latents(arm, pipeline)
    assert {a.row: a.sampler.nfe for a in ready.values()} == ROWS
    assert {a.row for a in ready.values() if a.texts == 1} == {
        "Guided-Distill (4)",
        "LCM-LoRA (4)",
        "LCM-LoRA (4) fused",
    }


def test_unbatched_guidance_is_the_same_picture_in_twice_the_calls(ready, pipeline):
    whole = latents(ready["DPM-Solver++ (25)"], pipeline)
    halves = latents(ready["DPM-Solver++ (25) unbatched"], pipeline)
    assert torch.allclose(whole, halves, atol=1e-4)
    unet = ready["DPM-Solver++ (25) unbatched"].sampler.pipeline.unet
    calls: list[int] = []
    hook = unet.conv_in.register_forward_hook(lambda m, a, y: calls.append(len(a[0])))
    latents(ready["DPM-Solver++ (25) unbatched"], pipeline)
    hook.remove()
    assert calls == [1] * 50


def test_rows_share_the_base_and_leave_it_as_it_was(ready, pipeline):
    base = pipeline.unet.conv_in.weight
    assert all(a.sampler.pipeline.unet.conv_in is not None for a in ready.values())
    student = ready["Guided-Distill (4)"].sampler.pipeline.unet
    assert student.conv_in.weight.data_ptr() == base.data_ptr()
    assert student.config.time_cond_proj_dim == 256
    assert pipeline.unet.config.time_cond_proj_dim is None
    unfused = ready["LCM-LoRA (4)"].sampler.pipeline.unet
    assert any("lora_A" in n for n, _ in unfused.named_parameters())
    assert not any("lora_A" in n for n, _ in pipeline.unet.named_parameters())
    assert ready["LCM-LoRA (4) fused"].sampler.pipeline.unet is pipeline.unet


def test_turns_are_fair():
    made = turns(3, 4)
    assert made == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_median_quartiles_and_ratios_within_rounds():
    assert spread([3, 1, 2, 5, 4]) == (3, 2, 4)
    assert ratio([2, 20, 2], [1, 10, 1]) == (2, 2, 2)


def test_too_few_rounds_is_one_line(pipeline):
    with pytest.raises(UserError, match="given 1 rounds and 1 warm-up, expected 3 and 1"):
        measure(pipeline, 16, 1, 1)


def test_warm_up_is_not_counted(pipeline):
    times = measure(pipeline, 16, 3, 1)
    assert {len(t.pipeline) for t in times} == {3}
    assert all(p > u > 0 for t in times for p, u in zip(t.pipeline, t.unet, strict=True))


def test_the_table_as_typed_and_not_measured_again(lab, monkeypatch):
    words = ["--models", lab.cards[0], "--rounds", "3", "--warm-up", "1", "--device", "cpu"]
    code, out, err = lab.table("sun-3", *words)
    assert (code, err) == (0, "")
    assert "measuring" in out
    folder = lab.root / "runs/paper/sun-3"
    (document,) = json.loads((folder / "sun-3.json").read_text())["models"]
    assert document["timing"]["rounds"] == 3
    assert document["device"]
    assert {"clocks_before", "clocks_after", "tf32", "torch"} <= document.keys()
    with (folder / "paper/sun-3-one.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(ROWS)
    first = rows[0]
    assert (first["row"], first["component"], first["paper_V100"]) == (
        "DPM-Solver++ (25)",
        "pipeline",
        "3.42",
    )
    assert float(first["speed_up"]) == 1.0
    text = (folder / "paper/sun-3-one.md").read_text()
    assert "| SUN (4) | 4 | 0.485" in text
    assert "11.53x" in text
    assert "another machine" in text
    monkeypatch.setattr(timing_page, "time_model", lambda *a, **k: pytest.fail("measured again"))
    assert lab.table("sun-3", *words)[0] == 0


def test_shapes_are_known_without_weights():
    assert asked("sd1.5-shape", "cuda", "float16", 10, 2).resolution == 512
    assert find("sun-3").models[0].zoo == "emoji"
    made = random_pipeline(SHAPES["sd1.5-shape"], "meta", torch.float16)
    assert sum(p.numel() for p in made.unet.parameters()) == 859_520_964
    assert made.unet.dtype == torch.float16
    assert len(arms(made)) == len(ROWS)


def test_an_unknown_dtype_is_one_line():
    with pytest.raises(UserError, match="given dtype 'float8'"):
        pipeline_of("sd1.5-shape", "cpu", "float8")
