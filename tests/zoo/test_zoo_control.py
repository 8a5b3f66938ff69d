"""The zoo's ControlNet: reads edges, starts as nothing, learns, and is shipped beside the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sunbench.sampling.edges import edges
from sunbench.zoo import control
from sunbench.zoo.build import stages
from sunbench.zoo.data import Scene, Sprites, colours, recipe, scenes, things
from sunbench.zoo.text import build_tokenizer
from sunbench.zoo.train import tokenize


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """A square of its own size for each thing, the same in every style."""
    tensors = {}
    for style in recipe()["styles"]:
        x = torch.zeros(len(things()), 3, 4, 64, 64, dtype=torch.uint8)
        for i in range(len(things())):
            half = 8 + i % 16
            x[i, :, :, 32 - half : 32 + half, 32 - half : 32 + half] = 255
            x[i, :, 1] //= 2
        tensors[style["name"]] = x
    return Sprites(tensors)


def parts() -> tuple[Any, Any, Any]:
    """A small random base: autoencoder, U-Net, text encoder."""
    torch.manual_seed(0)
    words = build_tokenizer()
    config = {**recipe()["unet"]["config"], "block_out_channels": [16, 16, 16]}
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=config["cross_attention_dim"],
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    vae = AutoencoderTiny(**recipe()["vae"]["config"])
    return vae, UNet2DConditionModel(**config), CLIPTextModel(text)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of few pictures, for learning to be seen."""
    table = recipe()["controlnet"]
    loop = {**table["loop"], "steps": 4, "batch": 4, "warmup": 1, "dtype": "float32"}
    monkeypatch.setitem(recipe(), "controlnet", {**table, "pool": 8, "loop": loop})


def test_it_comes_before_shipping():
    assert stages()[-2:] == ["controlnet-edges", "ship"]


def test_untrained_it_says_nothing(sprites: Sprites):
    _, unet, encoder = parts()
    net = control.new_controlnet(unet, recipe()["controlnet"]["embedding"])
    frozen = control.Frozen(unet, encoder, torch.ones(1))
    chosen = list(scenes()[1][:2])
    pictures = sprites.compose(chosen, torch.zeros(2, dtype=torch.long))
    lines = edges((pictures * 255).round().byte())
    assert 0.005 < float(lines.mean()) < 0.5
    ids = tokenize(build_tokenizer(), [s.caption for s in chosen])
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        said = frozen.predict(net, x, t, ids, lines)
        alone = unet(x, t, encoder(ids).last_hidden_state).sample
    torch.testing.assert_close(said, alone)


def test_training_changes_the_controlnet_alone(sprites: Sprites, short: None, tmp_path: Path):
    vae, unet, encoder = parts()
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    net = control.train_controlnet(sprites, vae, unet, encoder, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())
    zeros = [b.weight for b in (*net.controlnet_down_blocks, net.controlnet_mid_block)]
    assert all(float(w.detach().abs().max()) > 0 for w in zeros)
    header, last = (tmp_path / "loss.csv").read_text().splitlines()
    assert header.split(",")[0] == "step"
    assert last.split(",")[0] == "4"


def test_most_captions_leave_the_place_to_the_edges():
    chosen = [s for s in scenes()[0] if s.size != 1 and s.ground and s.place][:400]
    index = torch.tensor([s.row for s in chosen])
    style = torch.zeros(len(chosen), dtype=torch.long)
    made = control.captions(index, style, torch.Generator().manual_seed(0))
    table = recipe()["controlnet"]
    brief = [c == control.brief(s) for c, s in zip(made, chosen, strict=True)]
    assert sum(brief) / len(made) == pytest.approx(table["brief_captions"], abs=0.06)
    assert made.count("") / len(made) == pytest.approx(table["empty_captions"], abs=0.05)
    whole = [c for c, b in zip(made, brief, strict=True) if c and not b]
    assert whole
    assert all("large" in c or "small" in c for c in whole)


def test_a_brief_caption_names_the_thing_and_the_colour():
    rocket = [t[0] for t in things()].index("rocket")
    scene = Scene(rocket, 2, 0, 1, 3)
    assert "striped" in scene.caption
    assert control.brief(scene) == f"a rocket on a {colours()[0][0]} background"
