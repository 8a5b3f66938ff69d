"""Pruned U-Nets against the published configurations and counts, and their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from paper_counts import BK
from torch.utils.flop_counter import FlopCounterMode

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.surgery import (
    CUTS,
    Cut,
    cut_of,
    empty_pruned,
    mapped,
    new_tensors,
    prune,
    pruned_config,
    teacher_name,
)

#: Parameters on Stable Diffusion 1, and multiplications (GMACs) at 64x64 latents.
PUBLISHED = {
    "base": (579_384_964, 261.5),
    "small": (482_346_884, 255.4),
    "tiny": (323_384_964, 242.8),
    "m1": (848_791_044, 343.2),
    "m2": (809_513_604, 303.7),
    "m3": (659_688_324, 266.4),
}


@pytest.fixture(scope="module")
def sd1() -> Any:
    """Stable Diffusion 1's U-Net without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280)
        )


@pytest.fixture(scope="module")
def small_unet() -> Any:
    """The same layout at a size that runs."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        cross_attention_dim=16,
        block_out_channels=(8, 16, 24, 24),
        norm_num_groups=4,
        attention_head_dim=(1, 2, 2, 2),
    )


def test_the_full_unet_has_the_published_size(sd1: Any) -> None:
    assert sum(p.numel() for p in sd1.parameters()) == 859_520_964


@pytest.mark.oracle
@pytest.mark.parametrize("name", BK)
def test_surgery_gives_the_published_configurations(name: str, sd1: Any) -> None:
    """As the authors' own (Nota-NetsPresso/BK-SDM, src/unet_config)."""
    own = {k: v for k, v in sd1.config.items() if not k.startswith("_")}
    pruned, expected = pruned_config(sd1.config, CUTS[name.lower()]), {**own, **BK[name]}
    assert pruned.keys() == expected.keys()
    for key, value in expected.items():
        plain = list(value) if isinstance(value, tuple) else value
        assert (list(pruned[key]) if isinstance(pruned[key], tuple) else pruned[key]) == plain, key


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiplications(name: str, sd1: Any) -> None:
    student = empty_pruned(sd1, CUTS[name])
    parameters, gmacs = PUBLISHED[name]
    assert sum(p.numel() for p in student.parameters()) == parameters
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        student(torch.empty(1, 4, 64, 64), torch.tensor(1), torch.empty(1, 77, 768))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("name", CUTS)
def test_every_tensor_comes_from_the_teacher(name: str, small_unet: Any) -> None:
    student = prune(small_unet, CUTS[name])
    teacher = small_unet.state_dict()
    for key, value in student.state_dict().items():
        assert torch.equal(value, teacher[teacher_name(key, CUTS[name], 4)]), key
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor(3), torch.randn(1, 5, 16)
    assert bool(torch.isfinite(student(x, t, text).sample).all())


def test_a_pruned_stage_keeps_the_published_layers() -> None:
    base, tiny = CUTS["base"], CUTS["tiny"]
    pairs = {
        ("down_blocks.1.resnets.0.conv1.weight", base): "down_blocks.1.resnets.0.conv1.weight",
        ("up_blocks.2.attentions.1.norm.bias", base): "up_blocks.2.attentions.2.norm.bias",
        ("up_blocks.0.resnets.1.conv2.weight", tiny): "up_blocks.1.resnets.2.conv2.weight",
        ("up_blocks.1.upsamplers.0.conv.bias", tiny): "up_blocks.2.upsamplers.0.conv.bias",
        ("up_blocks.0.resnets.1.conv1.bias", CUTS["m1"]): "up_blocks.0.resnets.1.conv1.bias",
        ("up_blocks.3.resnets.1.conv1.bias", CUTS["m1"]): "up_blocks.3.resnets.2.conv1.bias",
    }
    for (name, cut), source in pairs.items():
        assert teacher_name(name, cut, 4) == source


def test_training_a_student_leaves_the_teacher(small_unet: Any) -> None:
    before = {k: v.clone() for k, v in small_unet.state_dict().items()}
    student = prune(small_unet, CUTS["base"])
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1)
    assert all(torch.equal(v, before[k]) for k, v in small_unet.state_dict().items())


def test_no_cut_is_the_unet_itself(small_unet: Any) -> None:
    same = prune(small_unet, Cut(stages=0))
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor(3), torch.randn(1, 5, 16)
    assert torch.equal(same(x, t, text).sample, small_unet(x, t, text).sample)


def test_what_assembly_trains_lies_in_the_pruned_stages(small_unet: Any) -> None:
    names = list(prune(small_unet, CUTS["m1"]).state_dict())
    new = new_tensors(CUTS["m1"], 4, names)
    assert {name.split(".resnets")[0].split(".attentions")[0] for name in new} >= {
        "down_blocks.0",
        "up_blocks.3",
    }
    assert all(name.startswith(("down_blocks.0", "up_blocks.3")) for name in new)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers_per_block": 1}, r"\[1, 1, 1, 1\] layers per stage"),
        ({"mid_block_type": None}, "mid block None"),
    ],
)
def test_a_unet_without_the_needed_parts_is_refused(
    change: dict[str, Any], words: str, small_unet: Any
) -> None:
    with pytest.raises(UserError, match=words):
        pruned_config({**small_unet.config, **change}, CUTS["base"])


def test_more_stages_than_there_are_is_refused(small_unet: Any) -> None:
    with pytest.raises(UserError, match="cut of 4 stages, expected fewer than 4"):
        pruned_config(small_unet.config, Cut(stages=4))


def test_an_unknown_cut_is_refused_with_its_nearest_name() -> None:
    with pytest.raises(UserError, match=r"smal.*small"):
        cut_of("smal")


def test_weights_of_another_size_are_refused(small_unet: Any, sd1: Any) -> None:
    student = empty_pruned(small_unet, CUTS["base"])
    with pytest.raises(UserError, match="cannot map"):
        mapped(sd1.state_dict(), student, CUTS["base"], 4)
