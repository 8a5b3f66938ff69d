"""Stages in order, each resumable; what another recipe began is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel

from sunbench import zoo
from sunbench.errors import UserError
from sunbench.training import LoopSettings
from sunbench.zoo.world import build, controlnet
from sunbench.zoo.world.captions import recipe, style_words
from sunbench.zoo.world.clip import contrastive_loss
from sunbench.zoo.world.reader import ATTRIBUTES, Reader, class_counts
from sunbench.zoo.world.text import build_tokenizer, caption_words
from sunbench.zoo.world.unet import noise_weights, spread_timesteps


def test_an_unknown_stage_is_refused_with_its_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"readr.*reader"):
        build.build(tmp_path, ("readr",))


def test_a_stage_without_what_it_needs_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage vae is not finished"):
        build.Builder(tmp_path).finished("vae")


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    build._claim(tmp_path / "vae", build._settings("vae"))
    build._claim(tmp_path / "vae", build._settings("vae"))
    with pytest.raises(UserError, match="another recipe"):
        build._claim(tmp_path / "vae", build._settings("reader"))


def test_a_longer_training_is_no_other_recipe() -> None:
    settings = build._settings("emoji")
    assert "steps" not in settings["unet"]["loop"]
    assert "learning_rate" in settings["unet"]["loop"]


def test_every_stage_has_settings() -> None:
    assert all(
        build._settings(stage) for stage in build.stages() if stage not in ("sprites", "ship")
    )


def test_every_word_is_one_token() -> None:
    tokenizer = build_tokenizer()
    words = [word for word in caption_words() if word != "3d"]  # letters and digits never merge
    assert all(len(ids) == 3 for ids in tokenizer(words).input_ids)
    assert set(style_words()) - {""} <= set(caption_words())


def test_the_unet_has_stable_diffusions_layout() -> None:
    unet = UNet2DConditionModel(**recipe()["unet"]["config"])
    attended = [hasattr(block, "attentions") for block in unet.down_blocks]
    assert attended == [True, True, True, False]
    assert [len(block.resnets) for block in unet.down_blocks] == [2, 2, 2, 2]
    assert [len(block.resnets) for block in unet.up_blocks] == [3, 3, 3, 3]
    assert hasattr(unet.mid_block, "attentions")
    assert sum(name.endswith("attn2.processor") for name in unet.attn_processors) == 16


def test_the_reader_names_each_attribute() -> None:
    reader = Reader()
    read = reader.read(torch.zeros(2, 3, 64, 64))
    assert read.shape == (2, len(ATTRIBUTES))
    logits = reader(torch.zeros(1, 3, 64, 64))
    assert tuple(h.shape[1] for h in logits) == class_counts()


def test_equal_captions_share_their_target() -> None:
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    shared = contrastive_loss(logits, ["a cat", "a cat", "a dog"])
    apart = contrastive_loss(logits, ["a cat", "a kitten", "a dog"])
    torch.testing.assert_close(shared, apart, atol=0.5, rtol=0)
    assert contrastive_loss(logits * 3, ["a cat", "a cat", "a dog"]) < shared + 0.01


def test_noise_weights_clamp_the_snr() -> None:
    alpha_bar = torch.tensor([0.99, 0.7, 0.01])
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(
        noise_weights(alpha_bar, recipe()["unet"]) * snr, torch.tensor([5.0, 7 / 3, 1.0])
    )


def test_timesteps_are_spread_evenly() -> None:
    t = spread_timesteps(8, 1000, torch.Generator().manual_seed(0)).sort().values
    assert t.diff().min() >= 124


def test_a_build_begins_with_finished_and_unfinished_stages(tmp_path: Path) -> None:
    begin = tmp_path / "begin"
    for stage in ("vae", "emoji"):
        (begin / stage / "model").mkdir(parents=True)
    (begin / "emoji" / build.UPDATES).write_text('{"updates": 700}')
    builder = build.Builder(tmp_path / "build", begin=begin)
    assert builder.finished("vae") == begin / "vae" / "model"
    with pytest.raises(UserError, match="stage emoji is not finished"):
        builder.finished("emoji")
    base = recipe()["models"][0]
    assert builder._rest(base)["steps"] == recipe()["unet"]["loop"]["steps"] - 700
    builder.run("vae")  # nothing to do
    assert not (tmp_path / "build" / "vae").exists()


def test_a_controlnet_goes_on_from_the_weights_that_a_build_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = tmp_path / "begin"
    pipeline: Any = StableDiffusionPipeline.from_pretrained(zoo.folder("emoji"))
    pipeline.unet.save_pretrained(begin / "emoji/model")
    pipeline.text_encoder.save_pretrained(begin / "emoji/model/text_encoder")
    pipeline.vae.save_pretrained(begin / "vae/model")
    shipped = ControlNetModel.from_pretrained(zoo.controlnet())
    shipped.save_pretrained(begin / "controlnet-edges/model")
    (begin / "controlnet-edges" / build.UPDATES).write_text('{"updates": 400}')
    trained: list[int] = []

    def fit(net: Any, loss: Any, settings: LoopSettings, folder: Path) -> Any:
        trained.append(settings.steps)
        for name, weight in net.control.state_dict().items():
            torch.testing.assert_close(weight, shipped.state_dict()[name])
        return net.state_dict()

    monkeypatch.setattr(controlnet, "fit", fit)
    monkeypatch.setattr(build.Builder, "sprites", None)
    build.Builder(tmp_path / "build", begin=begin).run("controlnet-edges")
    assert trained == [recipe()["controlnet"]["loop"]["steps"] - 400]
    assert (tmp_path / "build/controlnet-edges/model/config.json").exists()


def test_a_fine_tune_goes_on_from_the_weights_that_a_build_begins_with(tmp_path: Path) -> None:
    begin = tmp_path / "begin"
    base: Any = StableDiffusionPipeline.from_pretrained(zoo.folder("emoji"))
    base.unet.save_pretrained(begin / "emoji/model")
    base.text_encoder.save_pretrained(begin / "emoji/model/text_encoder")
    tuned: Any = StableDiffusionPipeline.from_pretrained(zoo.folder("emoji-3d"))
    tuned.unet.save_pretrained(begin / "emoji-3d/model")
    (begin / "emoji-3d" / build.UPDATES).write_text('{"updates": 100}')
    builder = build.Builder(tmp_path / "build", begin=begin)
    model = next(m for m in recipe()["models"] if m["name"] == "emoji-3d")
    unet, encoder = builder._start(model)
    assert unet is not None
    for now, was in ((unet, tuned.unet), (encoder, base.text_encoder)):
        for name, weight in was.float().state_dict().items():
            torch.testing.assert_close(now.state_dict()[name], weight)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(unet.conv_out.weight, base.unet.float().conv_out.weight)
