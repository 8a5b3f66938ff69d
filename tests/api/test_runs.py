"""Runs from Python on a tiny model: measure, open again, read everything of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sd

import sunbench
from sunbench.cli import main
from sunbench.errors import UserError

PROMPTS = [f"a thing number {k}" for k in range(4)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNBENCH_CACHE", str(root / "cache"))
        tiny_sd.pipeline(root / "words").save_pretrained(root / "model")
        (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        run = sunbench.run(
            root / "model",
            "ddim",
            [2, 3],
            images=8,
            seeds=2,
            prompts=root / "prompts.txt",
            metrics=("ssim", "fd[zoo-clip]"),
            guidance_scale=2.0,
            device="cpu",
            out=root / "run",
        )
        yield run


def test_the_table(finished: Any):
    table = finished.table()
    ssim = table[(table["metric"] == "ssim") & (table["method"] == "ddim")]
    assert sorted(ssim["steps"]) == [2, 3]
    assert (ssim["low"] <= ssim["value"]).all()
    assert set(ssim["n"]) == {8}
    assert {"latency_ms", "unet_ms", "speed_up", "flags"} <= set(finished.times())


def test_it_is_opened_again(finished: Any):
    again = sunbench.load(finished.folder.path)
    assert again.table().equals(finished.table())
    assert again.models == finished.models
    with pytest.raises(UserError):
        sunbench.load(finished.folder.path / "nowhere")


def test_images_of_a_prompt(finished: Any):
    images = finished.images(PROMPTS[2])
    assert list(images) == ["reference", "ddim at 2 steps", "ddim at 3 steps"]
    by_number = finished.images(2)
    for name, image in images.items():
        assert np.array_equal(image, by_number[name])
    other = finished.images(2, seed=1)["ddim at 2 steps"]
    assert not np.array_equal(other, images["ddim at 2 steps"])
    for arguments, message in (
        ({"prompt": "a thing"}, "expected one of the run's 4 prompts"),
        ({"prompt": 4}, "expected 0 to 3"),
        ({"seed": 9}, "expected one of 0, 1"),
        ({"model": "nothing"}, "unknown model of this run"),
    ):
        with pytest.raises(UserError, match=message):
            finished.images(**arguments)


def test_pick_answer_figure_and_page(finished: Any):
    (pick,) = finished.pick(max_latency_ms=1e9)
    assert pick.point is not None
    assert pick.point.row.method == "ddim"
    (none,) = finished.pick(max_latency_ms=1e-9)
    assert none.point is None
    assert finished.answer()
    assert finished.figure().axes
    page = finished.report()
    assert page.suffix == ".html"
    assert "<html" in page.read_text("utf-8")


def test_wrong_arguments_are_one_line(tmp_path: Path):
    for arguments, message in (
        ({"methods": "dimm"}, "did you mean 'ddim'"),
        ({"steps": 0}, "given 0 steps"),
        ({"weights": {"ddim": "x"}}, "given weights for ddim, which takes none"),
    ):
        with pytest.raises(UserError, match=message):
            sunbench.run(out=tmp_path / "run", device="cpu", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_method_on_a_pipeline(pipeline: Any):
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    ddim = sunbench.methods.load("ddim", pipeline)
    images = ddim(PROMPTS[:2], num_inference_steps=2, guidance_scale=2.0)
    assert len(images) == 2
    again = ddim(PROMPTS[1], num_inference_steps=2, guidance_scale=2.0)
    assert np.abs(np.asarray(again[0], int) - np.asarray(images[1], int)).max() <= 1
    assert all((pipeline.unet.state_dict()[k] == v).all() for k, v in before.items())
    negated = ddim(PROMPTS[1], "a thing", num_inference_steps=2, guidance_scale=2.0)
    assert not np.array_equal(negated[0], again[0])


def test_a_method_with_weights(pipeline: Any, distilled: dict[str, Path]):
    lcm = sunbench.methods.load("lcm-lora", pipeline, weights=str(distilled["lcm-lora"]))
    plain = sunbench.methods.load("ddim", pipeline)
    (image,) = lcm(PROMPTS[0], num_inference_steps=2)
    assert image.size == plain(PROMPTS[0], num_inference_steps=2)[0].size
    with pytest.raises(UserError, match="which takes none"):
        sunbench.methods.load("ddim", pipeline, weights="x")
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        sunbench.methods.load("dimm", pipeline)
    with pytest.raises(UserError, match="expected as many of each"):
        plain(PROMPTS[:2], ["x"])


def test_pick_for_other_programs(finished: Any, monkeypatch: Any, capsys: Any):
    folder = str(finished.folder.path)

    def command(*words: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "argv", ["sunbench", "pick", folder, "--json", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), json.loads(capsys.readouterr().out)

    code, (best,) = command("--max-latency-ms", "1e9")
    assert (code, best["method"]) == (0, "ddim")
    assert best["distance"] is not None
    code, (none,) = command("--max-latency-ms", "1e-9")
    assert (code, none["method"]) == (1, None)
