"""SUN's Table 3: every row as a network of its shape, in turns."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
import torch

from sunbench.errors import UserError
from sunbench.paper import timing
from sunbench.paper.catalogue import find_entry
from sunbench.paper.numbers import printed
from sunbench.paper.timing import SHAPES, random_pipeline, timing_request
from sunbench.paper.variants import VARIANTS
from sunbench.sampling import PipelineSampler
from sunbench.timing.inputs import TimingInputs
from sunbench.timing.rounds import time_batch

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
def samplers(pipeline: Any) -> dict[str, PipelineSampler]:
    return {v.row: v.build(pipeline, v.steps) for v in VARIANTS}


@pytest.fixture(scope="module")
def inputs(pipeline: Any) -> TimingInputs:
    return TimingInputs(pipeline, (("ab", "ba"),), 16)


def latents(sampler: PipelineSampler, inputs: TimingInputs) -> torch.Tensor:
    prompt, negative = inputs.encode(True)
    batch = inputs.batch()
    return sampler.sample(type(batch)(prompt, negative, batch.latents, batch.generators))


def test_every_row_of_the_paper_is_there_with_its_evaluations(samplers, pipeline, inputs):
    assert {p["row"] for p in printed("sun-3")} <= ROWS.keys()
    turns = {}
    for variant in VARIANTS:
        method = variant.timed(pipeline)
        with method.sampler() as sampler:
            turns[variant.row] = time_batch(method, sampler, inputs)
    assert {row: turn.nfe for row, turn in turns.items()} == ROWS
    assert all(turn.sampler > turn.unet > 0 for turn in turns.values())
    assert {v.row for v in VARIANTS if not v.reads_negative} == {
        "Guided-Distill (4)",
        "LCM-LoRA (4)",
        "LCM-LoRA (4) fused",
    }


def test_unbatched_guidance_is_the_same_image_in_twice_the_calls(samplers, inputs):
    whole = latents(samplers["DPM-Solver++ (25)"], inputs)
    halves = latents(samplers["DPM-Solver++ (25) unbatched"], inputs)
    assert torch.allclose(whole, halves, atol=1e-4)
    unet = samplers["DPM-Solver++ (25) unbatched"].pipeline.unet
    calls: list[int] = []
    hook = unet.conv_in.register_forward_hook(lambda m, a, y: calls.append(len(a[0])))
    latents(samplers["DPM-Solver++ (25) unbatched"], inputs)
    hook.remove()
    assert calls == [1] * 50


def test_rows_share_the_base_and_leave_it_as_it_was(samplers, pipeline):
    base = pipeline.unet.conv_in.weight
    assert all(s.pipeline.unet.conv_in is not None for s in samplers.values())
    unbatched = samplers["DPM-Solver++ (25) unbatched"].pipeline.unet
    assert unbatched.conv_in.weight.data_ptr() == base.data_ptr()
    student = samplers["Guided-Distill (4)"].pipeline.unet
    assert student.conv_in.weight.data_ptr() == base.data_ptr()
    assert student.config.time_cond_proj_dim == 256
    assert pipeline.unet.config.time_cond_proj_dim is None
    unfused = samplers["LCM-LoRA (4)"].pipeline.unet
    assert any("lora_A" in n for n, _ in unfused.named_parameters())
    assert not any("lora_A" in n for n, _ in pipeline.unet.named_parameters())
    assert samplers["LCM-LoRA (4) fused"].pipeline.unet is pipeline.unet


def test_too_few_rounds_and_an_unknown_dtype_are_one_line():
    with pytest.raises(UserError, match="given 1 rounds and 1 warm-up, expected 3 and 1"):
        timing_request("sd1.5-shape", "cpu", "float32", 1, 1)
    with pytest.raises(UserError, match="given dtype 'float8'"):
        timing_request("sd1.5-shape", "cpu", "float8", 3, 1)


def test_the_table_as_typed_and_not_measured_again(lab, monkeypatch):
    words = ["--models", lab.cards[0], "--rounds", "3", "--warm-up", "1", "--device", "cpu"]
    code, out, err = lab.table("sun-3", *words)
    assert (code, err) == (0, "")
    assert "measuring" in out
    folder = lab.root / "runs/paper/sun-3"
    (model,) = json.loads((folder / "sun-3.json").read_text())["models"]
    assert model["request"]["rounds"] == 3
    machine = model["rows"][0]["machine"]
    assert machine["device"]
    assert machine["memory_format"] == "channels_last"  # as in a run
    assert {"clocks_before", "clocks_after", "tf32_matmul", "tf32_cudnn"} <= machine.keys()
    assert machine["versions"]["torch"]
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
    monkeypatch.setattr(timing, "measure_model", lambda *a: pytest.fail("measured again"))
    assert lab.table("sun-3", *words)[0] == 0
    document = folder / "sun-3.json"
    document.write_text(document.read_text().replace('"rounds": 3', '"rounds": "3"', 1))
    code, _, err = lab.table("sun-3", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "model 1, request, rounds: given '3', expected int" in err


def test_shapes_are_known_without_weights():
    assert timing_request("sd1.5-shape", "cuda", "float16", 10, 2).resolution == 512
    assert find_entry("sun-3").models[0].zoo == "emoji"
    pipeline = random_pipeline(SHAPES["sd1.5-shape"], "meta", torch.float16)
    assert sum(p.numel() for p in pipeline.unet.parameters()) == 859_520_964
    assert pipeline.unet.dtype == torch.float16
    assert len([v.build(pipeline, v.steps) for v in VARIANTS]) == len(ROWS)
