"""What a method needs: by the training that its weights belong to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sunbench import registry
from sunbench.bench.training_requirements import training_of, training_requirements
from sunbench.errors import UserError
from sunbench.store import TrainingRequirements

COST = {"steps": 3, "images": 12, "seconds": 1.5, "parameters": 7}


def document(path: Path, method: str) -> None:
    path.write_text(json.dumps({"method": method, "base": "tiny", "cost": COST}))


@pytest.fixture
def lora(distilled: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "lcm-lora.safetensors"
    shutil.copy(distilled["lcm-lora"], path)
    return path


def lcm_lora(path: Path) -> Any:
    return registry.method("lcm-lora", weights={"lcm-lora": str(path)})


def test_beside_the_weights_or_in_the_trainings_folder(lora: Path, pipeline: Any):
    method = lcm_lora(lora)
    unknown = training_requirements("tiny", method, pipeline)
    assert (unknown.training, unknown.base, unknown.images) == ("once per base", None, None)
    for name in ("lcm-lora.json", "training.json"):
        document(lora.parent / name, "lcm-lora")
        needs = training_requirements("tiny", method, pipeline)
        assert (needs.base, needs.images, needs.seconds) == ("tiny", 12, 1.5)
        assert needs.parameters == 7
        (lora.parent / name).unlink()
    document(lora.parent / "training.json", "sun")  # another method's, in the same folder
    assert training_requirements("tiny", method, pipeline).base is None


def test_students_in_folders(distilled: dict[str, Path], pipeline: Any, tmp_path: Path):
    folder = tmp_path / "out" / "guided-distill"
    shutil.copytree(distilled["guided-distill"], folder)
    document(tmp_path / "out" / "training.json", "guided-distill")
    method = registry.method("guided-distill", weights={"guided-distill": str(folder)})
    needs = training_requirements("tiny", method, pipeline)
    assert (needs.training, needs.negative_prompts, needs.images) == (
        "once per model",
        False,
        12,
    )


def test_a_broken_document_is_one_line_and_ends_no_run(lora: Path, pipeline: Any):
    (lora.parent / "training.json").write_text("{")
    assert training_requirements("tiny", lcm_lora(lora), pipeline).images is None
    with pytest.raises(UserError, match=r"training\.json"):
        training_of(lora, "lcm-lora")


def test_methods_from_outside_need_not_say(pipeline: Any):
    class Mine:
        name = "mine"

    needs = training_requirements("tiny", Mine(), pipeline)
    assert needs == TrainingRequirements("tiny", "mine")


@pytest.mark.parametrize(
    "change",
    [
        {"cost": None},
        {"cost": "much"},
        {"cost": [1]},
        {"cost": {**COST, "images": None}},
        {"cost": {**COST, "seconds": -1}},
        {"cost": {**COST, "parameters": True}},
        {"base": 3},
        {"learned_guidance": [3.0]},
        {"learned_guidance": ["a", "b"]},
        {"resolution": "64"},
    ],
)
def test_a_document_of_other_kinds_is_one_line_and_ends_no_run(
    change: dict[str, Any], lora: Path, pipeline: Any, caplog: pytest.LogCaptureFixture
):
    file = lora.parent / "training.json"
    file.write_text(json.dumps({"method": "lcm-lora", "base": "tiny", "cost": COST, **change}))
    needs = training_requirements("tiny", lcm_lora(lora), pipeline)
    assert (needs.base, needs.images, needs.document) == (None, None, None)
    (record,) = caplog.records
    name = next(iter(change))
    assert record.getMessage().startswith(f"lcm-lora: {file}: given {name}")
    assert "\n" not in record.getMessage()
