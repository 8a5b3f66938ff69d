"""No silently wrong number, and nothing of the user's removed: cases that once went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sunbench.bench.planner import bytes_needed, plan
from sunbench.errors import UserError
from sunbench.store import RunFolder

SMALL: dict[str, Any] = {"methods": ("ddim",), "steps": (1,), "images": 4, "seeds": (0,)}


def never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("work began")


def values(lab: Any, name: str) -> dict[tuple[str, str, str], float | None]:
    rows = RunFolder(lab.out / name).read_results()
    return {
        (r.model, r.method if r.role == "candidate" else r.role, r.metric): r.value for r in rows
    }


def twin(lab: Any, folder: Path, name: str, **fields: Any) -> str:
    """A card like the world's with other fields."""
    lines = [line for line in lab.world.card.read_text().splitlines()]
    table = dict(line.split(" = ", 1) for line in lines)
    table |= {k: json.dumps(v) for k, v in {"name": name, **fields}.items()}
    card = folder / f"{name}.toml"
    card.write_text("".join(f"{k} = {v}\n" for k, v in table.items()))
    return str(card)


# ------------------------------------------------------------------------------ texts


def text_lora(path: Path) -> str:
    g = torch.Generator().manual_seed(0)
    weights = {}
    for part in ("q_proj", "out_proj"):
        name = f"lora_te_text_model_encoder_layers_0_self_attn_{part}"
        weights[f"{name}.lora_down.weight"] = torch.randn(2, 32, generator=g)
        weights[f"{name}.lora_up.weight"] = torch.randn(32, 2, generator=g)
        weights[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(weights, path)
    return str(path)


def test_a_lora_on_the_text_encoder_is_drawn_with_its_own_embeddings(lab: Any, tmp_path: Path):
    """Second in a run, its images once were those of the first card's text encoder."""
    styled = twin(lab, tmp_path, "styled", loras=[[text_lora(tmp_path / "te.safetensors"), 1.0]])
    lab.run("alone", **SMALL, models=(styled,))
    for file in sorted(lab.cache.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    lab.run("both", **SMALL, models=(str(lab.world.card), styled))
    both, alone = values(lab, "both"), values(lab, "alone")
    assert {k: both[k] for k in alone} == alone
    plain = {k[1:]: v for k, v in both.items() if k[0] == "tiny"}
    assert (
        plain["reference", "clip_score[zoo-clip]"]
        != alone["styled", "reference", "clip_score[zoo-clip]"]
    )


def test_float32_is_not_drawn_with_bfloat16_embeddings(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After a bfloat16 run that was killed, its embeddings once went into the shared reference."""
    lab.run("plain", **SMALL)
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "other-cache"))
    with monkeypatch.context() as patch:
        patch.setattr("sunbench.bench.runner.generate", never)
        with pytest.raises(AssertionError, match="work began"):
            lab.run("run", **SMALL, dtype="bfloat16")
    assert list((lab.out / "run" / "texts").rglob("*.embeddings"))
    lab.run("run", **SMALL)
    assert values(lab, "run") == values(lab, "plain")


def test_the_estimate_of_room_counts_embeddings(lab: Any):
    plans = plan(lab.request(**SMALL))
    here, cached = bytes_needed(plans, True, lab.out)
    plans[0].text_bytes = 0
    assert here - bytes_needed(plans, True, lab.out)[0] == 2 * 4 * 24 * 32 * 4
    assert cached > 0


# ------------------------------------------------------------------------------ NaN


def broken_vae(lab: Any, folder: Path) -> str:
    """The world's model with an autoencoder whose decoder gives NaN."""
    import shutil

    shutil.copytree(lab.world.card.parent / "tiny", folder / "nan")
    (file,) = (folder / "nan" / "vae").glob("*.safetensors")
    weights = load_file(file)
    name = sorted(n for n in weights if n.startswith("decoder") and n.endswith("weight"))[-1]
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, file)
    return twin(lab, folder, "nan-vae", id=str(folder / "nan"))


def test_an_autoencoder_of_nan_never_scores(lab: Any, tmp_path: Path):
    """fd 0, lpips 0, ssim 1, psnr 100 and exit code 0 it once gave."""
    with pytest.raises(UserError) as caught:
        lab.run(**SMALL, models=(broken_vae(lab, tmp_path),))
    text = str(caught.value)
    assert text.startswith("nan-vae · dpm++ · 5 steps: decoded images are not finite")
    assert "\n" not in text
    assert not (lab.out / "run/results.json").exists()


# ------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("entry", ["texts/mine.txt", "run.json", "results.json", ".hidden"])
def test_a_folder_of_the_users_is_refused_and_left_alone(lab: Any, entry: str):
    """`--out .` once removed texts/ and wrote over run.json."""
    file = lab.out / "run" / entry
    file.parent.mkdir(parents=True)
    file.write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"which holds .* and no run, expected a new or empty"):
        lab.run(**SMALL)
    assert [f for f in (lab.out / "run").rglob("*") if f.is_file()] == [file]
    assert file.read_text() == '{"mine": 1}'


def test_files_of_the_users_in_a_run_stay(done: Any):
    mine = done.out / "run" / "texts" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    done.run(methods=("unipc",), steps=(1,), images=20)
    assert mine.read_text() == "mine"


def test_an_empty_folder_and_a_finished_run_without_marker_are_taken(done: Any):
    (done.out / "empty").mkdir(parents=True)
    done.run("empty", **SMALL)
    (done.out / "run/.sunbench-run").unlink()
    assert done.run().new_shards == 0


def test_a_finished_run_with_a_damaged_run_json_is_healed(done: Any):
    expected = json.loads((done.out / "run/run.json").read_text())["request"]
    (done.out / "run/run.json").write_text('{"schema_')
    assert done.run().new_shards == 0
    assert json.loads((done.out / "run/run.json").read_text())["request"] == expected


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "/proc/run"])
def test_a_folder_that_cannot_be_is_one_line(lab: Any, name: str):
    lab.out.mkdir()
    (lab.out / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the run to") as caught:
        lab.run(name, **SMALL)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ before work


def test_an_extractor_that_a_second_card_misspells_is_found_before_work(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    second = twin(lab, tmp_path, "second", extractor="zoo-clop")
    monkeypatch.setattr("sunbench.bench.planner.load", never)
    with pytest.raises(UserError, match="did you mean 'zoo-clip'"):
        lab.run(**SMALL, models=(str(lab.world.card), second))


def test_prompts_that_a_second_card_lacks_are_found_before_work(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    second = twin(lab, tmp_path, "second", prompts=str(tmp_path / "none.txt"))
    monkeypatch.setattr("sunbench.bench.planner.load", never)
    with pytest.raises(UserError, match=r"none\.txt"):
        lab.run(**SMALL, models=(str(lab.world.card), second))
