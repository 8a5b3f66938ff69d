"""Single files in the original layout, from tiny ones to the full shape of SD1.5."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm_layout
import pytest
import torch
from safetensors.torch import save_file

from sunbench.errors import UserError
from sunbench.models import ModelCard, find_model, load, sources
from sunbench.models.clip_tokenizer import clip_tokenizer
from sunbench.models.hub import NotAvailable

UNET_PARAMETERS, VAE_PARAMETERS, TEXT_PARAMETERS = 859_520_964, 83_653_863, 123_060_480


def count(layout: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in layout.values())


def config(component: str) -> dict[str, Any]:
    path = sources.CONFIGS / "sd1" / component / "config.json"
    return dict(json.loads(path.read_text()))


@pytest.fixture
def tiny_file(sd1_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random checkpoint in the original layout, with the package's configs made as tiny."""
    shutil.copytree(sd1_folder, tmp_path / "configs" / "sd1")
    for weights in (tmp_path / "configs").rglob("*.safetensors"):
        weights.unlink()
    monkeypatch.setattr(sources, "CONFIGS", tmp_path / "configs")
    layout = ldm_layout.checkpoint_layout(tmp_path / "configs" / "sd1")
    random = torch.Generator().manual_seed(7)
    tensors = {name: 0.05 * torch.randn(shape, generator=random) for name, shape in layout.items()}
    save_file(tensors, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def card_of(path: Path, folder: Path, **changes: Any) -> ModelCard:
    return replace(find_model(str(path)), vae="own", tokenizer=str(folder / "tokenizer"), **changes)


def test_a_single_file_is_found_and_loaded(tiny_file: Path, sd1_folder: Path) -> None:
    card = card_of(tiny_file, sd1_folder)
    assert (card.name, card.source, card.architecture) == ("style", "file", "sd1")
    loaded = load(card)
    stored = sources.read_header(tiny_file)
    assert "model.diffusion_model.input_blocks.0.0.weight" in stored
    assert len({loaded.hashes[part] for part in ("unet", "vae", "text_encoder")}) == 1
    sampled = loaded.pipeline(
        "a b", num_inference_steps=1, output_type="np", generator=torch.Generator().manual_seed(0)
    )
    assert sampled.images.shape == (1, 16, 16, 3)


def test_every_tensor_of_a_single_file_lands_once(tiny_file: Path, sd1_folder: Path) -> None:
    from safetensors.torch import load_file

    pipeline = load(card_of(tiny_file, sd1_folder)).pipeline
    networks = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    landed = [t for network in networks for t in network.state_dict().values()]
    tensors = [
        tensor
        for name, tensor in load_file(tiny_file).items()
        if name.startswith(("model.diffusion", "first_stage", "cond_stage"))
        and "position_ids" not in name
    ]
    sums = sorted(round(float(t.double().sum()), 9) for t in landed)
    assert sums == sorted(round(float(t.double().sum()), 9) for t in tensors)


def test_swap_takes_only_the_unet_of_a_single_file(tiny_file: Path, sd1_folder: Path) -> None:
    base = load(replace(find_model(str(sd1_folder)), vae="own"))
    swapped = load(card_of(tiny_file, sd1_folder, unet_into=str(sd1_folder)))
    whole = load(card_of(tiny_file, sd1_folder))
    assert swapped.hashes["text_encoder"] == base.hashes["text_encoder"]
    assert torch.equal(swapped.pipeline.unet.conv_in.weight, whole.pipeline.unet.conv_in.weight)
    assert not torch.equal(swapped.pipeline.unet.conv_in.weight, base.pipeline.unet.conv_in.weight)


def test_a_file_without_vae_takes_another_one(tiny_file: Path, sd1_folder: Path) -> None:
    from safetensors.torch import load_file

    kept = {name: t for name, t in load_file(tiny_file).items() if not name.startswith("first_st")}
    save_file(kept, tiny_file)
    with pytest.raises(UserError, match=r"style.*cannot be loaded") as error:
        load(card_of(tiny_file, sd1_folder))
    assert "\n" not in str(error.value)
    card = replace(card_of(tiny_file, sd1_folder), vae=str(sd1_folder / "vae"))
    assert load(card).vae == str(sd1_folder / "vae")


def test_a_lone_vae_file_is_a_vae(tiny_file: Path, sd1_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    part = "first_stage_model."
    vae = {name: t for name, t in load_file(tiny_file).items() if name.startswith(part)}
    save_file(vae, tmp_path / "only.safetensors")
    loaded = load(replace(find_model(str(sd1_folder)), vae=str(tmp_path / "only.safetensors")))
    stored = vae[f"{part}decoder.conv_in.weight"]
    assert torch.equal(loaded.pipeline.vae.decoder.conv_in.weight, stored)
    with pytest.raises(UserError, match="holds a VAE"):
        find_model(str(tmp_path / "only.safetensors"))


@pytest.mark.parametrize(
    "part",
    [
        "model.diffusion_model.time_embed.0",
        "cond_stage_model.transformer.text_model.final_layer_norm",
    ],
)
def test_a_file_with_a_missing_tensor_is_one_line(
    tiny_file: Path, sd1_folder: Path, part: str
) -> None:
    from safetensors.torch import load_file

    kept = {name: t for name, t in load_file(tiny_file).items() if name != f"{part}.weight"}
    save_file(kept, tiny_file)
    with pytest.raises(UserError, match="style") as error:
        load(card_of(tiny_file, sd1_folder))
    assert "\n" not in str(error.value)


def test_a_truncated_download_is_one_line(tiny_file: Path) -> None:
    tiny_file.write_bytes(tiny_file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"style.safetensors: broken safetensors file"):
        find_model(str(tiny_file))


def test_an_sdxl_file_is_one_line(tmp_path: Path) -> None:
    unet = "model.diffusion_model."
    tensors = {
        f"{unet}input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        f"{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, 2048),
    }
    save_file(tensors, tmp_path / "xl.safetensors")
    with pytest.raises(
        UserError, match=r"checkpoint is SDXL-shaped \(cross_attention_dim 2048.*expected SD1.x"
    ):
        find_model(str(tmp_path / "xl.safetensors"))


@pytest.mark.oracle
def test_clip_tokenizer_equals_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    tokenizer = clip_tokenizer(None, "sd1")
    texts = [
        "a photo of a cat",
        "An Astronaut, riding (a horse)! 4k -- isn't it?",
        "café 東京 🎈",
        "",
    ]
    ours = tokenizer(texts, padding="max_length", max_length=77, truncation=True).input_ids
    theirs = open_clip.get_tokenizer("ViT-L-14")(texts)
    for mine, other in zip(ours, theirs.tolist(), strict=True):
        end = other.index(49407) + 1
        assert mine[:end] == other[:end]
        assert set(mine[end:]) <= {49407}
    assert ours[0][:7] == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_sd2_pads_with_an_exclamation_mark() -> None:
    pytest.importorskip("open_clip")
    ids = clip_tokenizer(None, "sd2")("a cat", padding="max_length", max_length=77).input_ids
    assert ids[:4] == [49406, 320, 2368, 49407]
    assert set(ids[4:]) == {0}


def test_no_tokenizer_anywhere_says_what_to_do(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sunbench.models import clip_tokenizer as module

    monkeypatch.setattr(module, "_open_clip_merges", lambda: None)
    with pytest.raises(NotAvailable, match="install open_clip_torch, or give a folder"):
        clip_tokenizer(None, "sd1")


def test_a_bad_tokenizer_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(UserError, match="given tokenizer") as error:
        clip_tokenizer(str(tmp_path), "sd1")
    assert "\n" not in str(error.value)


def test_sd15_config_builds_the_full_shape() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config("unet"))
        vae = AutoencoderKL.from_config(config("vae"))
        text = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, vae, text)]
    assert counts == [UNET_PARAMETERS, VAE_PARAMETERS, TEXT_PARAMETERS]


def test_original_layout_maps_onto_sd15_key_by_key() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    layouts = (ldm_layout.unet_layout(config("unet")), ldm_layout.vae_layout(config("vae")))
    assert [count(layout) for layout in layouts] == [UNET_PARAMETERS, VAE_PARAMETERS]
    assert count(ldm_layout.text_layout(config("text_encoder"))) == TEXT_PARAMETERS
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config("unet"))
        vae = AutoencoderKL.from_config(config("vae"))
        checkpoints = [
            {name: torch.empty(shape) for name, shape in layout.items()} for layout in layouts
        ]
    converted = (
        convert_ldm_unet_checkpoint(checkpoints[0], config("unet")),
        convert_ldm_vae_checkpoint(checkpoints[1], config("vae")),
    )
    for network, tensors in zip((unet, vae), converted, strict=True):
        wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
        assert {name: tensor.shape for name, tensor in tensors.items()} == wanted


def test_full_shape_sd15_loads_from_one_file(tmp_path: Path) -> None:
    """2.1 GB by length, nothing on disk: the file is sparse."""
    pytest.importorskip("open_clip")
    path = tmp_path / "v1-5-pruned-emaonly.safetensors"
    ldm_layout.write_zeros(path, ldm_layout.checkpoint_layout(sources.CONFIGS / "sd1"))
    try:
        loaded = load(replace(find_model(str(path)), vae="own"), dtype=torch.float16)
    finally:
        path.unlink()
    pipeline = loaded.pipeline
    assert loaded.card.architecture == "sd1"
    assert sum(p.numel() for p in pipeline.unet.parameters()) == UNET_PARAMETERS
    assert not any(p.any() for p in pipeline.unet.parameters())
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size == 49408
    assert pipeline.scheduler.config.beta_end == 0.012
    assert pipeline.vae.config.scaling_factor == 0.18215
