"""Model cards of trained weights: readable by the hub, true to training.json and results.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from result_rows import result_row

from sunbench.errors import UserError
from sunbench.report.weights_card import weights_card, write_beside, write_cards
from sunbench.store import ResultRow, Results, RunFolder, TrainingRequirements

DOCUMENT = {
    "schema_version": 1,
    "method": "lcm",
    "base": "emoji",
    "base_sha256": {"unet": "0" * 64},
    "resolution": 64,
    "data": "zoo, styles 0, 1, 2",
    "k": 20,
    "learned_guidance": [2.0, 6.0],
    "loop": {"learning_rate": 5e-5},
    "cost": {"steps": 600, "images": 19200, "seconds": 480.4, "parameters": 4431204},
}
ROW = result_row(
    model="emoji",
    method="lcm",
    metric="fd[zoo-clip]",
    value=0.707,
    low=0.498,
    high=0.953,
    n=400,
    nfe=4,
)


def took(model: str, method: str, document: dict[str, Any] | None) -> dict[str, Any]:
    return {"model": model, "method": method, "document": document}


def finished(folder: Path, rows: list[ResultRow], takes: list[dict[str, Any]]) -> RunFolder:
    run = RunFolder(folder)
    requirements = tuple(TrainingRequirements(**t) for t in takes)
    run.write_results(Results(tuple(rows), requirements=requirements))
    return run


def test_the_hub_reads_it():
    card = ModelCard(weights_card(DOCUMENT))
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    assert "lcm" in card.data.tags
    assert card.data.base_model is None  # a zoo model is on no hub
    assert ModelCard(weights_card({**DOCUMENT, "base": "sd1.5"})).data.base_model.count("/") == 1


def test_the_hub_reads_license_base_and_what_was_measured():
    card = ModelCard(weights_card({**DOCUMENT, "base": "sd1.5"}, [ROW], [("emoji", "lcm")]))
    assert card.data.license == "creativeml-openrail-m"
    assert ModelCard(weights_card(DOCUMENT)).data.license == "apache-2.0"
    assert ModelCard(weights_card({**DOCUMENT, "base": "my-own"})).data.license is None
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("fd", 0.707)
    assert result.metric_name == "fd[zoo-clip] on emoji at 4 steps"
    assert result.dataset_name == "zoo, 400 images"
    assert ModelCard(weights_card(DOCUMENT, [ROW], [("emoji", "sun")])).data.eval_results is None


def test_it_says_what_training_json_says():
    text = weights_card(DOCUMENT)
    for part in (
        "# lcm for emoji",
        "arXiv 2310.04378",
        "guidance scales from 2 to 6",
        "A negative prompt has no effect.",
        "--models MODEL --weights lcm=WEIGHTS",
        "| parameters trained | 4,431,204 |",
        "| images seen | 19,200 |",
        '"learning_rate": 5e-05',
        "Not measured yet.",
    ):
        assert part in text
    one = weights_card({**DOCUMENT, "method": "sun", "learned_guidance": None, "guidance_scale": 8})
    assert "It learned guidance 8, and holds that" in one
    assert "A negative prompt acts." in one
    bare = weights_card({"method": "boostdiff-lora", "base": "emoji"})
    assert "not written down" in bare
    assert "--weights boostdiff-lora=" in bare


def test_names_break_out_of_nothing():
    text = weights_card({**DOCUMENT, "base": "a\n# b <script> | c", "data": "```\n</details>"})
    assert "<script>" not in text
    assert "\n# b" not in text
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert fences == ["```sh", "```", "```json", "```"]


@pytest.mark.parametrize("document", [{}, {"method": "lcm"}, {"method": 3, "base": "emoji"}])
def test_a_document_that_says_nothing_is_one_line(document: dict[str, Any]):
    with pytest.raises(UserError, match="expected both"):
        weights_card(document)


def test_measured_rows_are_those_of_the_weights(tmp_path: Path):
    other = {**DOCUMENT, "method": "sun", "guidance_scale": 3.0, "learned_guidance": None}
    rows = [
        ROW,
        replace(ROW, method="sun", value=1.25, low=1.0, high=1.5),
        replace(ROW, method="sun-dpm++", value=2.25, low=2.0, high=2.5),
        replace(ROW, model="emoji-3d", value=0.563, low=0.465, high=0.699),
        replace(ROW, method="ddim", nfe=8, value=77.0, low=70.0, high=80.0),
        replace(
            ROW, method="dpm++", role="reference", steps=25, nfe=50, metric="clip_score[zoo-clip]"
        ),
    ]
    takes = [
        took("emoji", "lcm", DOCUMENT),
        took("emoji", "sun", other),
        took("emoji", "sun-dpm++", other),
        took("emoji", "ddim", None),
        took("emoji-3d", "lcm", DOCUMENT),
    ]
    run = finished(tmp_path / "run", rows, takes)
    written = {p.name: p.read_text() for p in write_cards(run)}
    assert set(written) == {"lcm.md", "sun.md"}
    lcm, sun = written["lcm.md"], written["sun.md"]
    assert "0.7070 [0.4980, 0.9530]" in lcm
    assert "0.5630" in lcm
    assert "`emoji-3d`, 400 images per row" in lcm
    assert "| reference | 25 | 50 |" in lcm
    assert "77.00" not in lcm
    assert "1.250" not in lcm
    assert "1.250" in sun
    assert "2.250" in sun
    assert "emoji-3d" not in sun


def test_weights_of_one_model_have_a_card_each(tmp_path: Path):
    own = {**DOCUMENT, "base": "me/emoji 3d", "method": "lcm"}
    takes = [took("emoji", "lcm", DOCUMENT), took("emoji-3d", "lcm", own)]
    run = finished(tmp_path / "run", [ROW, replace(ROW, model="emoji-3d")], takes)
    assert [p.name for p in write_cards(run)] == ["lcm-emoji.md", "lcm-me-emoji-3d.md"]


def test_cards_never_overwrite_each_other(tmp_path: Path):
    """Bases of one file name, and two trainings of one method on one base."""
    own = [
        {**DOCUMENT, "base": "a b"},
        {**DOCUMENT, "base": "a-b"},
        {**DOCUMENT, "base": "a-b", "guidance_scale": 3.0},
    ]
    takes = [took(f"m{i}", "lcm", document) for i, document in enumerate(own)]
    rows = [replace(ROW, model=f"m{i}") for i in range(3)]
    written = write_cards(finished(tmp_path / "run", rows, takes))
    assert len({p.name for p in written}) == 3
    assert [p for p in written if not p.name.startswith("lcm-a-b")] == []
    texts = [p.read_text() for p in written]
    assert [f"`m{i}`" in text for i, text in enumerate(texts)] == [True] * 3


def test_a_run_without_trained_weights_says_so(tmp_path: Path):
    run = finished(tmp_path / "run", [ROW], [took("emoji", "lcm", None)])
    with pytest.raises(UserError, match="no weights in this run"):
        write_cards(run)


def test_a_training_leaves_one(tmp_path: Path):
    (tmp_path / "training.json").write_text(json.dumps(DOCUMENT))
    assert write_beside(tmp_path).read_text() == weights_card(DOCUMENT)
