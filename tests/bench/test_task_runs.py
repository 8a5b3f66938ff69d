"""Runs of tasks that start from images: their sources, keys, metric and reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sunbench.bench import Request
from sunbench.bench.request import TASKS as ASKABLE
from sunbench.bench.sources import read_source
from sunbench.bench.verify import verify_run
from sunbench.errors import UserError
from sunbench.sampling import TASKS
from sunbench.sampling.masks import mask
from sunbench.store import CellStore, RunFolder, key

SMALL = {"methods": ("ddim", "sun"), "steps": (2,), "images": 8, "metrics": ()}
Rows = dict[tuple[str, str], Any]


def name_of(row: Any) -> str:
    return row.method if row.role == "candidate" else row.role


def rows_of(lab: Any, name: str) -> Rows:
    return {(name_of(r), r.metric): r for r in RunFolder(lab.out / name).read_results()}


def document(lab: Any, name: str) -> dict[str, Any]:
    return json.loads((lab.out / name / "run.json").read_text())["models"][0]


def sources_of(lab: Any, name: str) -> CellStore:
    return CellStore.open(
        lab.cache / "reference_sets" / document(lab, name)["sources"]["cell"]["key"]
    )


def images_of(store: CellStore) -> np.ndarray:
    rows = [r for k in store.shards() for r in store.read_rows(k, images=True)]
    return np.stack([r.image for r in sorted(rows, key=lambda r: r.index)])


@pytest.fixture(scope="module")
def control(world: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ControlNet for the world's model."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(world.card.parent / "tiny" / "unet")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    folder = tmp_path_factory.mktemp("control")
    net.save_pretrained(folder)
    return str(folder)


def test_tasks_are_those_of_the_samplers():
    assert ASKABLE == TASKS


def test_inpainting_keeps_and_measures_what_is_not_masked(lab: Any):
    outcome = lab.run("paint", **SMALL, task="inpaint")
    assert outcome.new_shards == 2 * 4  # sources, reference, floor, ddim: two shards of four
    rows = rows_of(lab, "paint")
    assert {r.task for r in rows.values()} == {"inpaint"}
    for method in ("reference", "floor", "ddim"):
        row = rows[method, "unmasked_psnr"]
        assert row.low <= row.value <= row.high
        assert row.value < 100  # the autoencoder is not exact
    assert rows["ddim", "psnr"].nfe == 4
    assert "no weights for" in rows["sun", "psnr"].reason

    entry = document(lab, "paint")["cells"][0]["content"]
    assert entry["task_settings"] == {
        "mask": "center",
        "sources": sources_of(lab, "paint").key,
        "source_shift": 0,
        "strength": 1.0,
    }
    stays = mask("center", 16).numpy() < 0.5
    images, sources = images_of(lab.cell("ddim", "paint")), images_of(sources_of(lab, "paint"))
    gap = (images.astype(float) - sources)[:, stays]
    expected = np.mean([20 * np.log10(255) - 10 * np.log10((g**2).mean()) for g in gap])
    assert rows["ddim", "unmasked_psnr"].value == pytest.approx(expected, rel=1e-9)
    assert "unmasked_psnr" in lab.tables("paint")["results.md"].decode()

    assert lab.run("paint", **SMALL, task="inpaint").new_shards == 0
    assert verify_run(lab.out / "paint") == (4, [])


def test_sources_are_text2image_pictures_of_noise_that_nothing_else_uses(lab: Any, control: str):
    lab.run("paint", **SMALL, task="inpaint", floor=False)
    store = sources_of(lab, "paint")
    assert store.content["task"] == "text2image"
    assert store.content["seeds"] == [2_000_000, 2_000_001]
    assert "controlnet" not in store.content["weights"]
    outcome = lab.run("control", **SMALL, task="controlnet", controlnet=control, floor=False)
    assert outcome.new_shards == 2 * 2  # reference, ddim: the sources were there
    assert sources_of(lab, "control").key == store.key
    weights = document(lab, "control")["cells"][0]["content"]["weights"]
    assert "controlnet" in weights
    assert "strength" not in document(lab, "control")["cells"][0]["content"]["task_settings"]


def test_image2image_starts_from_the_next_prompts_picture(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    import sunbench.bench.runner as runner_module

    seen: list[tuple[int, torch.Tensor]] = []
    real = runner_module.generate

    def watched(cell: Any, *rest: Any) -> Any:
        if cell.method == "ddim":
            seen.extend(zip(rest[3], rest[5].images, strict=True))
        return real(cell, *rest)

    monkeypatch.setattr(runner_module, "generate", watched)
    lab.run("edit", **SMALL, task="image2image", strength=0.5)
    sources = images_of(sources_of(lab, "edit"))
    assert sorted(i for i, _ in seen) == list(range(8))
    for i, image in seen:  # two seeds per prompt, four prompts
        expected = sources[(i + 2) % 8].transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), expected)
    assert rows_of(lab, "edit")["ddim", "psnr"].nfe == 4
    assert ("ddim", "unmasked_psnr") not in rows_of(lab, "edit")


def keys(request: dict[str, Any], lab: Any, name: str) -> str:
    lab.run(name, **SMALL | request, floor=False)
    return key(document(lab, name)["cells"][0]["content"])


def test_keys_know_task_strength_mask_and_sources(lab: Any, tmp_path: Path):
    folder = tmp_path / "sources"
    folder.mkdir()
    for i in range(4):
        Image.effect_noise((20, 30), 40 + i).convert("RGB").save(folder / f"{i}.png")
    asked = [
        {"task": "image2image"},
        {"task": "image2image", "strength": 0.8},
        {"task": "inpaint"},
        {"task": "inpaint", "mask": "left"},
        {"task": "inpaint", "sources": str(folder)},
    ]
    keyed = [keys(a, lab, str(i)) for i, a in enumerate(asked)]
    Image.effect_noise((20, 30), 99).convert("RGB").save(folder / "2.png")
    keyed.append(keys(asked[-1], lab, "5"))
    assert len(set(keyed)) == 6
    assert document(lab, "5")["sources"]["files"] == [f"{i}.png" for i in range(4)]
    assert verify_run(lab.out / "5")[1] == []


def test_a_sources_middle_is_cut_from_its_shortest_side(tmp_path: Path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert bool((read_source(tmp_path / "wide.png", 16) == 200).all())
    (tmp_path / "text.png").write_text("no")
    with pytest.raises(UserError, match="which is not an image"):
        read_source(tmp_path / "text.png", 16)


def test_what_cannot_be_is_told(lab: Any, tmp_path: Path, tiny: Any):
    with pytest.raises(UserError, match="given no ControlNet, expected one on edges"):
        lab.run(**SMALL, task="controlnet")
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (16, 16)).save(one / "a.png")
    with pytest.raises(UserError, match="given 1 source images"):
        lab.run(**SMALL, task="inpaint", sources=str(one))
    tiny.pipeline(tmp_path / "words", in_channels=9).save_pretrained(tmp_path / "nine")
    card = tmp_path / "nine.toml"
    card.write_text(
        lab.world.card.read_text().replace(
            f'id = "{lab.world.card.parent / "tiny"}"', f'id = "{tmp_path / "nine"}"'
        )
    )
    with pytest.raises(UserError, match="9 channels draws no sources"):
        lab.run(**SMALL, models=(str(card),), task="inpaint")


WRONG = [
    ({"strength": 0.5}, "strength for task text2image"),
    ({"task": "controlnet", "strength": 0.5}, "strength for task controlnet"),
    ({"task": "image2image", "strength": 0.0}, "strength 0.0, expected above 0"),
    ({"task": "image2image", "strength": 1.5}, "strength 1.5"),
    ({"sources": "somewhere"}, "sources for task text2image"),
    ({"mask": "left"}, "a mask for task text2image"),
    ({"task": "inpaint", "mask": "lefd"}, "did you mean 'left'"),
    ({"controlnet": "x"}, "a ControlNet for task text2image"),
    ({"metrics": ("unmasked_psnr",)}, "metric unmasked_psnr for task text2image"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[w for _, w in WRONG])
def test_wrong_requests_of_tasks(change: dict[str, Any], words: str):
    with pytest.raises(UserError) as caught:
        Request(**change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
