"""Loading folders: every part from where the card says, every mistake in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sunbench.errors import UserError
from sunbench.models import ModelCard, find_model, load
from sunbench.models.hashes import file_hash

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
LORA_LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def own(folder: Path, **changes: Any) -> ModelCard:
    return replace(find_model(str(folder)), vae="own", **changes)


def fails(card: ModelCard, expected: str, **options: Any) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        load(card, **options)
    assert "\n" not in str(caught.value)


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_loads_a_folder_as_it_is(sd1_folder: Path) -> None:
    state = torch.get_rng_state()
    loaded = load(own(sd1_folder))
    assert torch.equal(state, torch.get_rng_state())
    assert loaded.card.architecture == "sd1"
    assert loaded.pipeline.safety_checker is None
    assert loaded.pipeline.feature_extractor is None
    assert loaded.revision is None
    stored = load_file(sd1_folder / UNET_FILE)
    for name, tensor in loaded.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, stored[name]), name


def test_a_loaded_pipeline_makes_an_image(small_folder: Path) -> None:
    loaded = load(find_model(str(small_folder)))
    assert (loaded.card.architecture, loaded.vae) == ("zoo", "own")
    assert loaded.card.resolution == 16
    assert type(loaded.pipeline.vae).__name__ == "AutoencoderTiny"
    sampled = loaded.pipeline(
        "a b", num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)
    )
    assert sampled.images.shape == (1, 16, 16, 3)


def test_hashes_are_the_files_sha256_and_are_remembered(
    sd1_folder: Path, tmp_path: Path, own_cache: Path
) -> None:
    folder = copy(sd1_folder, tmp_path)
    hashes = load(own(folder)).hashes
    assert set(hashes) == {"unet", "vae", "text_encoder", "tokenizer", "config"}
    assert hashes["unet"] == hashlib.sha256((folder / UNET_FILE).read_bytes()).hexdigest()
    notes = {path: path.stat().st_mtime_ns for path in (own_cache / "hashes").iterdir()}
    assert load(own(folder)).hashes == hashes
    assert {path: path.stat().st_mtime_ns for path in (own_cache / "hashes").iterdir()} == notes
    weights = load_file(folder / UNET_FILE)
    weights["conv_in.bias"] += 1
    save_file(weights, folder / UNET_FILE)
    changed = load(own(folder)).hashes
    assert {name for name in hashes if changed[name] != hashes[name]} == {"unet"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: ("1" if text[0] == "0" else "0") + text[1:],
        lambda text: text[:64],
        lambda text: text[:-1],
        lambda text: "",
        lambda text: "ü" * 64,
        lambda text: "0" * 64 + text[64:],
    ],
)
def test_a_damaged_note_of_a_hash_is_not_believed(
    tmp_path: Path, own_cache: Path, damage: Callable[[str], str]
) -> None:
    """A changed digit once resampled everything under keys of weights that do not exist."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    wanted = hashlib.sha256(b"weights").hexdigest()
    assert file_hash(path) == wanted
    (note,) = (own_cache / "hashes").iterdir()
    whole = note.read_text()
    note.write_text(damage(whole), encoding="utf-8")
    assert file_hash(path) == wanted
    assert note.read_text() == whole


def test_scheduler_betas_are_part_of_the_config_hash(sd1_folder: Path, tmp_path: Path) -> None:
    folder = copy(sd1_folder, tmp_path)
    before = load(own(folder)).hashes
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.02}))
    after = load(own(folder)).hashes
    assert {name for name in before if after[name] != before[name]} == {"config"}


@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_tasks_share_the_weights(sd1_folder: Path, task: str) -> None:
    plain = load(own(sd1_folder))
    loaded = load(own(sd1_folder), task=task, dtype=torch.float64)
    assert type(loaded.pipeline).__name__.startswith("StableDiffusionI")
    assert loaded.hashes == plain.hashes
    assert loaded.pipeline.unet.dtype == torch.float64


def test_controlnet_comes_from_its_own_folder(sd1_folder: Path, tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    unet = load(own(sd1_folder)).pipeline.unet
    ControlNetModel.from_unet(unet).save_pretrained(tmp_path / "canny", safe_serialization=True)
    loaded = load(own(sd1_folder), task="controlnet", controlnet=str(tmp_path / "canny"))
    assert type(loaded.pipeline.controlnet).__name__ == "ControlNetModel"
    assert len(loaded.hashes["controlnet"]) == 64
    fails(own(sd1_folder), "expected both or none", task="controlnet")


def test_variant_files_are_chosen_and_a_missing_variant_is_refused(
    sd1_folder: Path, tmp_path: Path
) -> None:
    folder = copy(sd1_folder, tmp_path)
    half = {name: tensor.half() for name, tensor in load_file(folder / UNET_FILE).items()}
    save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    loaded = load(own(folder, variant="fp16"))
    assert torch.equal(loaded.pipeline.unet.conv_in.weight, half["conv_in.weight"].float())
    assert loaded.hashes["vae"] == load(own(folder)).hashes["vae"]
    fails(own(folder, variant="ema"), "given variant 'ema', it has no such weights")


def test_another_vae_replaces_the_own_one(sd1_folder: Path, other_folder: Path) -> None:
    loaded = load(replace(find_model(str(sd1_folder)), vae=str(other_folder / "vae")))
    other = load(own(other_folder))
    assert loaded.vae == str(other_folder / "vae")
    assert loaded.hashes["vae"] == other.hashes["vae"]
    assert loaded.hashes["unet"] != other.hashes["unet"]
    key = "decoder.conv_in.weight"
    assert torch.equal(loaded.pipeline.vae.state_dict()[key], other.pipeline.vae.state_dict()[key])


def test_tiny_vae_is_known_by_its_config(sd1_folder: Path, small_folder: Path) -> None:
    loaded = load(replace(find_model(str(sd1_folder)), vae=str(small_folder)))
    assert type(loaded.pipeline.vae).__name__ == "AutoencoderTiny"
    fails(
        replace(find_model(str(sd1_folder)), vae=str(small_folder / "unet")), "UNet2DConditionModel"
    )


def test_swap_moves_only_the_unet(sd1_folder: Path, other_folder: Path) -> None:
    base, tuned = load(own(sd1_folder)), load(own(other_folder))
    swapped = load(own(other_folder, unet_into=str(sd1_folder)))
    assert swapped.hashes["unet"] == tuned.hashes["unet"]
    for part in ("vae", "text_encoder", "tokenizer"):
        assert swapped.hashes[part] == base.hashes[part]
    assert torch.equal(swapped.pipeline.unet.conv_in.weight, tuned.pipeline.unet.conv_in.weight)
    for key, tensor in swapped.pipeline.text_encoder.state_dict().items():
        assert torch.equal(tensor, base.pipeline.text_encoder.state_dict()[key]), key


def test_swap_into_another_architecture_is_refused(sd1_folder: Path, small_folder: Path) -> None:
    fails(own(sd1_folder, unet_into=str(small_folder)), "cross_attention_dim 32.*expected SD1.x")


def lora(width: int, path: Path, layer: str = LORA_LAYER) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    weights = {
        f"unet.{layer}.lora_A.weight": torch.randn(2, width, generator=random),
        f"unet.{layer}.lora_B.weight": torch.randn(32, 2, generator=random),
    }
    save_file(weights, path)
    return weights


def test_lora_is_merged_with_its_scale(sd1_folder: Path, tmp_path: Path) -> None:
    down, up = lora(32, tmp_path / "style.safetensors").values()
    plain = load(own(sd1_folder)).pipeline.unet
    loaded = load(own(sd1_folder, loras=((str(tmp_path / "style.safetensors"), 0.7),)))
    before = plain.get_submodule(LORA_LAYER).weight
    after = loaded.pipeline.unet.get_submodule(LORA_LAYER).weight
    torch.testing.assert_close(after, before + 0.7 * up @ down)
    assert set(loaded.pipeline.unet.state_dict()) == set(plain.state_dict())
    digest = hashlib.sha256((tmp_path / "style.safetensors").read_bytes()).hexdigest()
    assert loaded.hashes["lora0"] == digest


def test_two_loras_add_up(sd1_folder: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "style.safetensors")
    down, up = lora(32, Path(path)).values()
    loaded = load(own(sd1_folder, loras=((path, 0.5), (path, -0.2))))
    before = load(own(sd1_folder)).pipeline.unet.get_submodule(LORA_LAYER).weight
    after = loaded.pipeline.unet.get_submodule(LORA_LAYER).weight
    torch.testing.assert_close(after, before + 0.3 * up @ down)


def test_kohya_lora_reaches_the_text_encoder(sd1_folder: Path, tmp_path: Path) -> None:
    """Civitai's usual layout; the text encoder's names changed in transformers 5."""
    random = torch.Generator().manual_seed(6)
    down, up = torch.randn(2, 768, generator=random), torch.randn(768, 2, generator=random)
    weights = {}
    for part in ("q_proj", "out_proj"):
        name = f"lora_te_text_model_encoder_layers_0_self_attn_{part}"
        weights[f"{name}.lora_down.weight"] = down.clone()
        weights[f"{name}.lora_up.weight"] = up.clone()
        weights[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(weights, tmp_path / "kohya.safetensors")
    loaded = load(own(sd1_folder, loras=((str(tmp_path / "kohya.safetensors"), 1.0),)))
    key = next(
        key
        for key in loaded.pipeline.text_encoder.state_dict()
        if key.endswith("layers.0.self_attn.q_proj.weight")
    )
    before = load(own(sd1_folder)).pipeline.text_encoder.state_dict()[key]
    after = loaded.pipeline.text_encoder.state_dict()[key]
    torch.testing.assert_close(after, before + 0.5 * up @ down)


def test_lora_of_another_shape_is_one_line(sd1_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    lora(48, path)
    fails(own(sd1_folder, loras=((str(path), 1.0),)), r"wide.*LoRA does not fit.*size mismatch")


def test_lora_for_absent_layers_is_one_line(sd1_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.safetensors"
    lora(32, path, LORA_LAYER.replace("down_blocks.0", "down_blocks.7"))
    fails(own(sd1_folder, loras=((str(path), 1.0),)), "elsewhere")


def _orphan_up(tensors: dict[str, torch.Tensor]) -> None:
    tensors["unet.mid_block.x.lora_B.weight"] = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.pop(f"unet.{LORA_LAYER}.lora_B.weight"), "has no partner"),
        (lambda t: t.pop(f"unet.{LORA_LAYER}.lora_A.weight"), "has no partner"),
        (_orphan_up, "has no partner"),
        (lambda t: t.update({k: v.long() for k, v in t.items()}), "is I64, expected a floating"),
        (lambda t: t.update({k: v.flatten() for k, v in t.items()}), "has factors of shapes"),
        (lambda t: t.update({k: v.sum() for k, v in t.items()}), "has factors of shapes"),
        (lambda t: t.update({k: v * float("nan") for k, v in t.items()}), "not finite"),
        (lambda t: t.update({k: v + float("inf") for k, v in t.items()}), "not finite"),
        (
            lambda t: t.update(
                {k: v[:0] if k.endswith("A.weight") else v[:, :0] for k, v in t.items()}
            ),
            "rank of at least 1",
        ),
        (lambda t: t.update({f"unet.{LORA_LAYER}.alpha": torch.ones(4)}), "expected one number"),
        (lambda t: t.update({f"unet.{LORA_LAYER}.alpha": torch.tensor(0.0)}), "other than 0"),
        (lambda t: t.update({f"unet.{LORA_LAYER}.alpha": torch.tensor(torch.nan)}), "other than 0"),
    ],
)
def test_broken_loras_are_one_line(
    sd1_folder: Path, tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], Any], words: str
) -> None:
    tensors = lora(32, tmp_path / "style.safetensors")
    spoil(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "style.safetensors")
    card = own(sd1_folder, loras=((str(tmp_path / "style.safetensors"), 1.0),))
    fails(card, rf"style.safetensors: .*({words})")


def test_a_checkpoint_is_no_lora(sd1_folder: Path) -> None:
    loras = ((str(sd1_folder / UNET_FILE), 1.0),)
    fails(own(sd1_folder, loras=loras), "holds no LoRA layers")


def test_prediction_type_of_the_card_wins(sd1_folder: Path) -> None:
    loaded = load(own(sd1_folder, prediction_type="v_prediction"))
    assert loaded.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert loaded.pipeline.scheduler.config.beta_end == 0.012


def test_wrong_architecture_is_one_line(
    sd1_folder: Path, build: Callable[..., Path], tmp_path: Path
) -> None:
    fails(own(sd1_folder, architecture="sd2"), "is SD1.x-shaped .* expected SD2.x")
    inpaint = build(tmp_path, width=768, seed=4, in_channels=9)
    fails(own(inpaint), "in_channels 9.*expected SD1.x")
    assert load(own(inpaint), task="inpaint").pipeline.unet.config.in_channels == 9


@pytest.mark.parametrize("left", [0, 5, 1000, -1])
def test_truncated_weights_are_named(sd1_folder: Path, tmp_path: Path, left: int) -> None:
    folder = copy(sd1_folder, tmp_path)
    data = (folder / UNET_FILE).read_bytes()
    (folder / UNET_FILE).write_bytes(data[:left])
    fails(own(folder), r"diffusion_pytorch_model.safetensors: broken safetensors file")


def test_missing_tensors_are_not_left_random(sd1_folder: Path, tmp_path: Path) -> None:
    folder = copy(sd1_folder, tmp_path)
    weights = load_file(folder / UNET_FILE)
    del weights["conv_in.weight"]
    save_file(weights, folder / UNET_FILE)
    fails(own(folder), "unet")


def test_wrong_tensor_shape_is_one_line(sd1_folder: Path, tmp_path: Path) -> None:
    folder = copy(sd1_folder, tmp_path)
    weights = load_file(folder / UNET_FILE)
    weights["conv_in.weight"] = weights["conv_in.weight"][:16].contiguous()
    save_file(weights, folder / UNET_FILE)
    fails(own(folder), "cannot be loaded.*conv_in")


def test_only_pickles_are_refused(sd1_folder: Path, tmp_path: Path) -> None:
    folder = copy(sd1_folder, tmp_path)
    (folder / UNET_FILE).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    fails(own(folder), "only pickled weights .* convert")


@pytest.mark.parametrize("device", ["meta", "meta:0"])
def test_a_device_without_values_is_refused(sd1_folder: Path, device: str) -> None:
    fails(own(sd1_folder), f"given device '{device}', expected cpu, cuda or mps", device=device)


def test_unknown_task_gets_its_neighbor(sd1_folder: Path) -> None:
    fails(own(sd1_folder), "did you mean 'text2image'", task="txt2image")


def test_zoo_cards_load_from_the_zoo(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sunbench import zoo

    asked: list[str] = []

    def folder(name: str) -> Path:
        asked.append(name)
        return small_folder

    monkeypatch.setattr(zoo, "folder", folder, raising=False)
    loaded = load(find_model("emoji-flat"))
    assert asked == ["emoji-flat"]
    assert (loaded.vae, loaded.card.architecture) == ("own", "zoo")


def test_loading_leaves_the_libraries_as_they_were(small_folder: Path) -> None:
    from diffusers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load(find_model(str(small_folder)))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_unwritable_cache_only_costs_time(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "file"))
    assert len(load(find_model(str(small_folder))).hashes["unet"]) == 64
