"""SUN's training: data, settings, the loss going down, bit-exact resuming, refusals."""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from png_bomb import png_bomb
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sunbench.cli import main
from sunbench.errors import UserError
from sunbench.methods.sun import bound, read_adapter
from sunbench.methods.sun.adapter import SunAdapter
from sunbench.methods.sun.negatives import negative_prompt, vocabulary
from sunbench.methods.sun.settings import LOOP, SunTraining, read_settings
from sunbench.methods.sun.train import SunLoss, train_adapter
from sunbench.models import LoadedModel, ModelCard
from sunbench.prompts.negatives import Vocabulary
from sunbench.training.data import Listed, ZooImages, from_folder, open_training_images, squared
from sunbench.training.encode import encode_images, encode_texts
from sunbench.training.record import averaged

TINY = SunTraining(
    substeps=2,
    guidance_scale=3.0,
    p=0.5,
    sheet=2,
    loop=replace(
        LOOP,
        steps=4,
        batch=4,
        learning_rate=3e-3,
        dtype="float32",
        checkpoint_every=2,
        log_every=1,
        ema=0.5,
    ),
)
COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def plain(color: str, size: tuple[int, int] = (24, 20)) -> Image.Image:
    return Image.new("RGB", size, COLORS[color])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pets = tmp_path / "pets"
    pets.mkdir()
    for color in COLORS:
        plain(color).save(pets / f"{color}.png")
        (pets / f"{color}.txt").write_text(f"a {color} cat\n")
    return pets


@pytest.fixture
def loaded(pipe: Any, tmp_path: Path) -> LoadedModel:
    card = ModelCard(
        "tiny", "folder", str(tmp_path), architecture="zoo", resolution=16, guidance_scale=5.0
    )
    return LoadedModel(pipe, card, {"unet": "0" * 64}, "own")


def trained(loaded: LoadedModel, folder: Path, out: Path, settings: SunTraining = TINY) -> Path:
    return train_adapter(loaded, from_folder(folder, 16), settings, out)


# ------------------------------------------------------------------------------ training


def test_a_training_writes_what_it_promises(loaded: LoadedModel, folder: Path, tmp_path: Path):
    before = {k: v.clone() for k, v in loaded.pipeline.unet.state_dict().items()}
    path = trained(loaded, folder, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        "checkpoint.safetensors",
        "loss.csv",
        "loss.png",
        "sheet-000002.png",
        "sheet-000004.png",
        "sun.safetensors",
        "training.json",
    ]
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["form"] == "add_pos"
    assert json.loads(about["base_sha256"]) == {"unet": "0" * 64}
    said = json.loads(about["training"])
    assert (said["delta"], said["guidance_scale"], said["loop"]["steps"]) == (0.25, 3.0, 4)
    assert about["step"] == "4"
    with (tmp_path / "out/loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        total = float(row["l_cfg"]) + float(row["l_msc"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)
    sheet = np.asarray(Image.open(tmp_path / "out/sheet-000004.png"))
    assert sheet.shape == (2 * 18 + 2, 2 * 18 + 2, 3)  # two rows of two, 16 pixels and a frame of 2
    after = loaded.pipeline.unet.state_dict()
    assert bound(loaded.pipeline.unet) is None
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_an_adapter_can_be_written_in_half_precision(loaded: LoadedModel, folder: Path, tmp_path):
    assert read_settings(None, zoo=True).file_dtype == "float16"
    half = trained(loaded, folder, tmp_path / "half", replace(TINY, file_dtype="float16"))
    full = trained(loaded, folder, tmp_path / "full")
    a, b = load_file(half), load_file(full)
    assert {v.dtype for v in a.values()} == {torch.float16}
    assert all(torch.equal(a[k], b[k].half()) for k in b)


def test_the_file_holds_the_averaged_weights(loaded: LoadedModel, folder: Path, tmp_path: Path):
    adapter = read_adapter(trained(loaded, folder, tmp_path / "out"), loaded.pipeline.unet)
    checkpoint = load_file(tmp_path / "out/checkpoint.safetensors")
    for key, value in adapter.state_dict().items():
        assert torch.equal(value, checkpoint[f"ema/{key}"])
        assert not torch.equal(value, checkpoint[f"model/{key}"])


@pytest.mark.parametrize("l_cfg", [True, False])
@pytest.mark.parametrize("l_step", [True, False])
def test_a_few_steps_lower_each_loss(
    loaded: LoadedModel, folder: Path, tmp_path: Path, l_cfg: bool, l_step: bool
):
    if not (l_cfg or l_step):
        with pytest.raises(UserError, match="expected one of them"):
            replace(TINY, l_cfg=False, l_step=False)
        return
    settings = replace(TINY, p=0.1, l_cfg=l_cfg, l_step=l_step, sheet=0)
    settings = replace(settings, loop=replace(settings.loop, steps=16, checkpoint_every=16, ema=0))
    fresh = SunAdapter.for_unet(loaded.pipeline.unet, add_pos=True)
    before = measured(loaded, folder, settings, fresh)
    path = trained(loaded, folder, tmp_path / "out", settings)
    after = measured(loaded, folder, settings, read_adapter(path, loaded.pipeline.unet))
    assert set(before) == {"loss"} | ({"l_cfg"} if l_cfg else set()) | (
        {"l_msc"} if l_step else set()
    )
    # 16 steps of a tiny network: how far each loss falls depends on the phrases drawn
    assert all(after[name] < 0.95 * before[name] for name in before), (before, after)


def measured(
    loaded: LoadedModel, folder: Path, settings: SunTraining, adapter: SunAdapter
) -> dict[str, float]:
    """The losses on micro-batches that no test trains on."""
    loss = loss_of(loaded, folder, settings, adapter)
    binding = adapter.bind(loaded.pipeline.unet)
    with torch.no_grad():
        rows = [loss(10**6 + k) for k in range(3)]
    binding.release()
    return {name: sum(float(row[name]) for row in rows) for name in rows[0]}


def loss_of(
    loaded: LoadedModel, folder: Path, settings: SunTraining, adapter: SunAdapter
) -> SunLoss:
    words = vocabulary("", None, zoo=True)
    return SunLoss(loaded.pipeline, adapter, from_folder(folder, 16), words, settings, 3.0)


def test_a_pool_asks_the_teacher_once(loaded: LoadedModel, folder: Path, tmp_path: Path):
    """Micro-batches come in turn; targets are bit-exact those of a training without a pool."""
    settings = replace(TINY, p=0.0, pool=2, sheet=0)
    adapter = SunAdapter.for_unet(loaded.pipeline.unet, add_pos=True, alpha0=0.0)
    new = loss_of(loaded, folder, replace(settings, pool=None), adapter)
    pooled = loss_of(loaded, folder, settings, adapter)
    passes: list[int] = []
    binding = adapter.bind(loaded.pipeline.unet)
    hook = loaded.pipeline.unet.register_forward_pre_hook(lambda m, args: passes.append(1))
    with torch.no_grad():
        fresh = [float(new(k % 2)["loss"]) for k in range(6)]
        each = len(passes) // 6
        passes.clear()
        kept = [float(pooled(k)["loss"]) for k in range(6)]
    hook.remove()
    binding.release()
    assert kept == fresh
    assert len(passes) == 2 * each + 4  # two micro-batches whole, then the student's pass alone
    whole = load_file(trained(loaded, folder, tmp_path / "out", settings))
    assert all(bool(torch.isfinite(x).all()) for x in whole.values())


def test_a_pool_and_the_students_own_replacement():
    with pytest.raises(UserError, match=r"given pool = 2 and p = 0\.1, expected p = 0"):
        replace(TINY, pool=2, p=0.1)


def test_every_trial_of_the_audit_is_a_file(tmp_path: Path):
    """Start, losses and their weight, empty negatives, sub-steps, form, times, rate, average."""
    file = tmp_path / "trial.toml"
    file.write_text(
        "alpha0 = 0.0\nl_cfg = false\ndelta = 0.25\nt_min = 0.03\nsubsteps = 4\n"
        "empty_negatives = 0.4\np = 0.0\npool = 100\nadd_pos = false\nlam = 3.0\n"
        'times = "continuous"\n[loop]\nsteps = 700\nlearning_rate = 1e-3\nema = 0.995\n'
    )
    trial = read_settings(file, zoo=True)
    assert (trial.alpha0, trial.l_cfg, trial.lam, trial.add_pos) == (0.0, False, 3.0, False)
    assert (trial.empty_negatives, trial.pool) == (0.4, 100)
    assert (trial.substeps, trial.earliest) == (4, 0.03)
    assert (trial.loop.steps, trial.loop.ema) == (700, 0.995)


class Killed(Exception):
    pass


def test_resumed_training_equals_uninterrupted_to_the_bit(
    loaded: LoadedModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed in the fourth step, after the checkpoint of the second and its sheet."""
    whole = load_file(trained(loaded, folder, tmp_path / "whole"))
    aim = SunLoss.aim

    def dies(self: SunLoss, k: int) -> Any:
        if k == 3:
            raise Killed
        return aim(self, k)

    with monkeypatch.context() as patch:
        patch.setattr(SunLoss, "aim", dies)
        with pytest.raises(Killed):
            trained(loaded, folder, tmp_path / "killed")
    assert bound(loaded.pipeline.unet) is None
    first = load_file(tmp_path / "killed/sun.safetensors")
    assert any(not torch.equal(first[k], whole[k]) for k in whole)
    resumed = load_file(trained(loaded, folder, tmp_path / "killed"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)
    sheets = [(tmp_path / n / "sheet-000004.png").read_bytes() for n in ("whole", "killed")]
    assert sheets[0] == sheets[1]


def test_other_settings_are_refused_in_a_begun_folder(
    loaded: LoadedModel, folder: Path, tmp_path: Path
):
    settings = replace(TINY, sheet=0, loop=replace(TINY.loop, steps=1))
    path = trained(loaded, folder, tmp_path / "out", settings)
    data = path.read_bytes()
    with pytest.raises(UserError, match=r"begun with p = 0\.5, asked 0\.1; .*another folder"):
        trained(loaded, folder, tmp_path / "out", replace(settings, p=0.1))
    loop = replace(settings.loop, learning_rate=1.0)
    with pytest.raises(UserError, match=r"begun with learning_rate = 0\.003"):
        trained(loaded, folder, tmp_path / "out", replace(settings, loop=loop))
    other = LoadedModel(loaded.pipeline, loaded.card, {"unet": "1" * 64}, "own")
    with pytest.raises(UserError, match="begun with base_sha256"):
        trained(other, folder, tmp_path / "out", settings)
    assert path.read_bytes() == data


def test_loss_that_is_not_finite_is_one_line(
    loaded: LoadedModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bias = loaded.pipeline.unet.conv_out.bias
    monkeypatch.setattr(bias, "data", torch.full_like(bias, float("nan")))
    with pytest.raises(UserError, match="loss is not finite at step 0"):
        trained(loaded, folder, tmp_path / "out", replace(TINY, sheet=0))
    assert bound(loaded.pipeline.unet) is None


def test_autocast_does_not_lose_gradients(loaded: LoadedModel, folder: Path):
    """The student runs without gradients first (xhat_t); autocast would keep the weights it cast
    there, and with them K' and V' would get no gradient at all."""
    unet = loaded.pipeline.unet
    adapter = SunAdapter.for_unet(unet, add_pos=True)
    settings = replace(TINY, p=1.0, times="grid")
    loss = loss_of(loaded, folder, settings, adapter)
    binding = adapter.bind(unet)
    unet.requires_grad_(False)
    grads = {}
    for dtype in (torch.float32, torch.bfloat16):
        adapter.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            assert loss.draw(*loss.texts(0)[::3]).replaced.any()
            loss(0)["loss"].backward()
        grads[dtype] = torch.cat([p.grad.flatten() for p in adapter.parameters()])
    binding.release()
    cosine = torch.nn.functional.cosine_similarity(*grads.values(), dim=0)
    assert float(cosine) > 0.98


def test_averaged_weights_are_there_for_a_while(loaded: LoadedModel):
    adapter = SunAdapter.for_unet(loaded.pipeline.unet)
    live = {k: v.clone() for k, v in adapter.state_dict().items()}
    parameters = list(adapter.parameters())
    with averaged(adapter, {k: v + 1 for k, v in live.items()}):
        assert all(torch.equal(v, live[k] + 1) for k, v in adapter.state_dict().items())
    assert all(torch.equal(v, live[k]) for k, v in adapter.state_dict().items())
    assert all(a is b for a, b in zip(parameters, adapter.parameters(), strict=True))


def test_bases_that_predict_something_else_are_refused(
    loaded: LoadedModel, folder: Path, tmp_path: Path
):
    loaded.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(UserError, match="predicts 'v_prediction', expected the noise"):
        trained(loaded, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ frozen parts


def test_texts_are_encoded_as_the_pipeline_does(pipeline: Any):
    texts = ["a red cat", "", "ab"]
    expected = pipeline.encode_prompt(texts, "cpu", 1, False)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encode_texts(pipeline, texts), expected)


def test_latents_are_what_the_pipeline_decodes(pipeline: Any):
    """x_0 over the scaling factor is what the autoencoder gave."""
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = pipeline.vae.encode(x).latents
    latents = encode_images(pipeline, x, torch.Generator())
    torch.testing.assert_close(latents / pipeline.vae.config.scaling_factor, z)


# ------------------------------------------------------------------------------ images


@pytest.mark.parametrize("size", [(96, 32), (32, 96), (50, 50)])
def test_shortest_side_is_resized_and_the_center_kept(size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    whole = Image.fromarray(pixels)
    w, h = (16 * side // min(size) for side in size)
    left, top = (w - 16) // 2, (h - 16) // 2
    small = whole.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + 16, top + 16))
    expected = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(squared(whole, 16), expected, atol=1.01 / 127.5, rtol=0)


def test_what_is_transparent_is_white():
    square = squared(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), 8)
    assert torch.equal(square, torch.ones(3, 8, 8))


def captions(listed: Listed) -> set[str]:
    return {listed.get(row)[1] for row in range(listed.count)}


def test_folders_with_texts_beside(folder: Path):
    images = from_folder(folder, 16)
    assert captions(images) == {"a red cat", "a green cat", "a blue cat"}
    x, texts = images.draw(12, torch.Generator().manual_seed(0))
    assert x.shape == (12, 3, 16, 16)
    for pixel, text in zip(x[:, :, 0, 0], texts, strict=True):
        strongest = list(COLORS)[int(pixel.argmax())]
        assert text == f"a {strongest} cat"
    again, same = images.draw(12, torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    assert texts == same
    assert str(folder.parent) not in images.name


def test_folders_with_a_table(folder: Path):
    rows = [f"{c}.png,one {c} dog" for c in ("red", "blue")]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    assert captions(from_folder(folder, 16)) == {"one red dog", "one blue dog"}
    (folder / "metadata.csv").unlink()
    lines = [json.dumps({"file_name": f"{c}.png", "caption": f"my {c} ant"}) for c in COLORS]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert captions(from_folder(folder, 16)) == {f"my {c} ant" for c in COLORS}


def test_folders_without_captions_are_one_line(folder: Path):
    (folder / "red.txt").unlink()
    with pytest.raises(UserError, match=r"1 of 3 images have no caption \(such as red\.png\)"):
        from_folder(folder, 16)
    (folder / "red.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"red\.txt is empty, expected a caption"):
        from_folder(folder, 16)
    (folder / "red.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"red\.txt: given no UTF-8 text"):
        from_folder(folder, 16)
    (folder / "metadata.csv").write_text("file_name\nred.png\n")
    with pytest.raises(UserError, match="given no captions, expected a column named text"):
        from_folder(folder, 16)
    (folder / "metadata.csv").write_text("file_name,text\nrde.png,a cat\n")
    with pytest.raises(UserError, match=r"metadata\.csv line 2: given file_name 'rde\.png'"):
        from_folder(folder, 16)
    outside = folder.parent / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    for name in ("../outside.png", str(outside), "none/../../outside.png"):
        (folder / "metadata.csv").write_text(f"file_name,text\n{name},a cat\n")
        with pytest.raises(UserError, match="expected an image below the folder"):
            from_folder(folder, 16)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        from_folder(folder / "empty", 16)


def test_broken_pictures_are_named(folder: Path):
    (folder / "blue.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"folder pets: image 1 \(.*blue\.png\) cannot be read"):
        from_folder(folder, 16).draw(8, torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9000, 12_000, 60_000])
def test_png_bombs_are_named(folder: Path, side: int):
    (folder / "blue.png").write_bytes(png_bomb(side))
    with pytest.raises(UserError, match=r"image 1 \(.*blue\.png\) cannot be read \(.*pixels"):
        from_folder(folder, 16).draw(8, torch.Generator().manual_seed(0))


def test_images_of_a_table_are_decoded_once_and_named(folder: Path, tmp_path: Path):
    good = (folder / "red.png").read_bytes()
    cases = {"cut short": good[: len(good) // 2], "text": b"no image", "no size": good[:20]}
    for data in cases.values():
        images = [{"bytes": data, "path": None}] * 2
        file = parquet(tmp_path / "x.parquet", image=images, text=["a cat", "a dog"])
        training_images = open_training_images(str(file), "any", 16, zoo=False)
        with pytest.raises(UserError, match=r"x\.parquet: image [12] cannot be read"):
            training_images.draw(4, torch.Generator().manual_seed(0))


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def encoded(color: str) -> bytes:
    data = io.BytesIO()
    plain(color).save(data, "PNG")
    return data.getvalue()


def test_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = [{"bytes": encoded(c), "path": None} for c in COLORS]
    texts = [f"a {c} cat" for c in COLORS]
    file = parquet(tmp_path / "pets.parquet", image=images, text=texts)
    training_images = open_training_images(str(file), "tiny", 16, zoo=False)
    x, said = training_images.draw(6, torch.Generator().manual_seed(0))
    assert [f"a {list(COLORS)[int(p.argmax())]} cat" for p in x[:, :, 0, 0]] == said
    file = parquet(tmp_path / "bare.parquet", thing=texts, text=texts)
    with pytest.raises(UserError, match="given columns thing, text; expected one of image"):
        open_training_images(str(file), "tiny", 16, zoo=False)


@pytest.fixture(scope="session")
def sprites() -> Any:
    from sunbench.zoo.world.captions import drawings, recipe
    from sunbench.zoo.world.images import Sprites

    g = torch.Generator().manual_seed(0)
    shape = (1, len(drawings()), 3, 3, 4, 64, 64)
    pixels = torch.randint(256, shape, generator=g, dtype=torch.uint8)
    pixels[..., 3, :, :] = 255
    ink = pixels.expand(len(recipe()["styles"]), *shape[1:])
    return Sprites(ink, ink)


def art(file: Path, **changes: torch.Tensor | None) -> Path:
    """Sprites of every style, of one shape that no recipe has."""
    from sunbench.zoo.world.captions import recipe

    tensors = {s["name"]: torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8) for s in recipe()["styles"]}
    save_file({k: v for k, v in {**tensors, **changes}.items() if v is not None}, file)
    return file


@pytest.mark.parametrize("changes", [{}, {"noto": None}, {"noto": torch.zeros(1)}])
def test_art_of_another_recipe_is_one_line(changes: dict[str, Any], tmp_path: Path):
    file = art(tmp_path / "sprites.safetensors", **changes)
    for source in (file, tmp_path):
        with pytest.raises(UserError, match="given art of another recipe") as caught:
            open_training_images(str(source), "emoji", 64, zoo=True)
        assert "\n" not in str(caught.value)


def test_broken_art_is_one_line(tmp_path: Path):
    (tmp_path / "sprites.safetensors").write_bytes(b"no sprites")
    with pytest.raises(UserError, match="given art of another recipe"):
        open_training_images(str(tmp_path), "emoji", 64, zoo=True)


@pytest.mark.parametrize("method", ["gits", "sun"])
def test_every_trainer_says_so(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    art(tmp_path / "sprites.safetensors")
    words = ["train", method, "--base", "emoji", "--data", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["sunbench", *words, "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "given art of another recipe" in " ".join(capsys.readouterr().err.split())


def test_the_zoos_pictures(sprites: Any):
    from sunbench.zoo.world.captions import CLASS_WORDS, SIZES, things

    images = ZooImages(sprites, (0, 2))
    x, texts = images.draw(16, torch.Generator().manual_seed(3))
    assert x.shape == (16, 3, 64, 64)
    assert -1 <= float(x.min()) < float(x.max()) <= 1
    subjects = {thing.name for thing in things()} | {*CLASS_WORDS}
    for text in texts:
        words = text.split(", ")[-1].split(" on ")[0].split(" in ")[0].split(" at ")[0].split()
        assert " ".join(w for w in words[1:] if w not in SIZES) in subjects
    assert any(" style, " in t for t in texts)
    again, same = images.draw(16, torch.Generator().manual_seed(3))
    assert torch.equal(x, again)
    assert texts == same


@pytest.mark.parametrize(
    ("spec", "zoo", "line"),
    [
        (None, False, "given no --data"),
        (None, True, "sprites.safetensors is missing: `sunbench zoo build"),
        ("no where", False, "given --data 'no where', expected a folder"),
        ("no/such.parquet", False, "given --data 'no/such.parquet', expected a folder"),
    ],
)
def test_data_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str | None, zoo: bool, line: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        open_training_images(spec, "emoji", 64, zoo=zoo)


# ------------------------------------------------------------------------------ negatives


def test_negative_prompts_hold_0_to_most_phrases_each_once():
    words = Vocabulary((tuple("abcdef"),), 4)
    rng = random.Random("test")
    rows = [negative_prompt(rng, words).split(", ") for _ in range(4000)]
    counts = Counter(0 if row == [""] else len(row) for row in rows)
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert all(abs(n / 4000 - 0.2) < 0.03 for n in counts.values())
    assert all(len(set(row)) == len(row) for row in rows)
    phrases = Counter(p for row in rows for p in row if p)
    assert max(phrases.values()) < 1.15 * min(phrases.values())


def test_negative_prompts_end_where_the_phrases_do():
    words = Vocabulary((("a", "b"), ("c",)), 100)
    rng = random.Random("test")
    rows = [negative_prompt(rng, words) for _ in range(300)]
    longest = max(rows, key=len)
    assert sorted(longest.split(", ")) == ["a", "b", "c"]


def test_vocabularies(tmp_path: Path):
    own = vocabulary("", None, zoo=False)
    assert (len(own.kinds[0]), own.most) == (832, 100)
    assert vocabulary("", None, zoo=True).most == 4
    assert vocabulary("", 7, zoo=True).most == 7
    file = tmp_path / "phrases.txt"
    file.write_text("ugly\n\nblurry\nugly\n")
    assert vocabulary(str(file), None, zoo=True) == Vocabulary((("ugly", "blurry"),), 100)
    file.write_text("\n \n")
    with pytest.raises(UserError, match=r"phrases\.txt holds 0 negative phrases"):
        vocabulary(str(file), None, zoo=True)
    file.write_bytes(b"ugly\nblur\xff\n")
    with pytest.raises(UserError, match=r"phrases\.txt: given no UTF-8 text \(byte 9\)"):
        vocabulary(str(file), None, zoo=True)


# ------------------------------------------------------------------------------ settings


def test_defaults_are_the_papers():
    s = SunTraining()
    assert (s.delta, s.p, s.lam) == (0.25, 0.1, 1.0)
    assert {s.loop.rate(k) for k in (0, 2500, 4999)} == {1e-4}
    assert (s.loop.weight_decay, s.loop.steps * s.loop.batch) == (0.01, 160_000)


def test_settings_from_a_file(tmp_path: Path):
    file = tmp_path / "sun.toml"
    file.write_text(
        'delta = 0.125\nlam = 2\nnorm = "token"\n[loop]\nsteps = 7\nbetas = [0.8, 0.9]\n'
    )
    settings = read_settings(file)
    loop = replace(LOOP, steps=7, betas=(0.8, 0.9))
    assert settings == SunTraining(delta=0.125, lam=2, norm="token", loop=loop)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("delt = 1", "unknown SUN training setting 'delt'; did you mean 'delta'?"),
        ("[loop]\nstep = 1", "unknown training setting 'step'"),
        ("loop = 3", "expected a table"),
        ('p = "often"', "given p = 'often', expected float"),
        ("substeps = 2.5", "given substeps = 2.5, expected int"),
        ("l_cfg = 1", "given l_cfg = 1, expected bool"),
        ("p = 1.5", "given p = 1.5, expected 0 to 1"),
        ("delta = 0", "given delta = 0, expected 0.001 to 1"),
        ("substeps = 300", "given 300 substeps in 0.25 of the time"),
        ("max_phrases = -1", "given max_phrases = -1, expected at least 0"),
        ('times = "gird"', "did you mean 'grid'?"),
        ("p = ", "is not TOML"),
    ],
)
def test_settings_that_are_wrong_are_one_line(tmp_path: Path, text: str, line: str):
    file = tmp_path / "sun.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_settings(file)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_times_lie_where_they_are_asked_for():
    g = torch.Generator().manual_seed(0)
    t = SunTraining().draw_times(4000, g)
    assert 0.25 <= float(t.min()) < 0.26
    assert 0.99 < float(t.max()) <= 1
    t = SunTraining(t_min=0.1).draw_times(4000, g)
    assert 0.1 <= float(t.min()) < 0.11
    t = SunTraining(times="grid").draw_times(4000, g)
    assert sorted(set(t.tolist())) == [0.25, 0.5, 0.75, 1.0]


# ------------------------------------------------------------------------------ command


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sunbench", "train", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_the_command(
    tiny: ModuleType,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    tiny.pipeline(tmp_path / "words").save_pretrained(tmp_path / "tiny")
    card, config = tmp_path / "tiny.toml", tmp_path / "sun.toml"
    card.write_text(tiny._card("tiny", tmp_path, tmp_path / "prompts.txt"))
    config.write_text('substeps = 1\nsheet = 0\n[loop]\nsteps = 1\nbatch = 2\ndtype = "float32"\n')
    words = ["sun", "--base", str(card), "--out", str(tmp_path / "out"), "--config", str(config)]
    assert run(monkeypatch, *words, "--data", str(folder), "--device", "cpu") == 0
    assert f"Weights: {tmp_path / 'out/sun.safetensors'}" in capsys.readouterr().out
    with safe_open(tmp_path / "out/sun.safetensors", "pt") as file:
        assert set(json.loads(file.metadata()["base_sha256"])) >= {"unet", "text_encoder"}
    assert "# sun for tiny" in (tmp_path / "out/README.md").read_text()
    assert run(monkeypatch, *words, "--device", "cpu") == 2
    assert "given no --data" in capsys.readouterr().err


def test_an_unknown_training_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, "snu", "--base", "emoji", "--out", "nowhere") == 2
    assert "unknown training 'snu'; did you mean 'sun'?" in capsys.readouterr().err
