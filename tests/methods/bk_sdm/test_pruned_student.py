"""Pruned students: how they begin, their files, and where these do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import hub_server
import pytest
import random_weights
import torch
from safetensors.torch import load_file, save_file

from sunbench import registry
from sunbench.bench.training_requirements import training_requirements
from sunbench.errors import NotAvailable, UserError
from sunbench.methods.bk_sdm.method import FILE
from sunbench.methods.bk_sdm.student import (
    Layout,
    PrunedStudent,
    check_student,
    load_pruned,
    siblings,
)
from sunbench.methods.bk_sdm.surgery import CUTS, prune
from sunbench.methods.common.cards import published_cards
from sunbench.models.fetch import bring, look_up, method_needs
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(4, 4.0)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x, c = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 24, 32, generator=g)
    return x, torch.tensor([9, 900]), c


@pytest.mark.parametrize("cut", ["base", "small", "tiny", "m1", "m2", "m3"])
def test_a_student_begins_as_surgery_makes_it(cut: str, deep: Any):
    expected = prune(deep.unet, CUTS[cut]).state_dict()
    ours = PrunedStudent(deep.unet, Layout(cut)).unet.state_dict()
    assert expected.keys() == ours.keys()
    assert all(torch.equal(expected[k], ours[k]) for k in ours)


@pytest.mark.parametrize("cut", ["base", "small", "tiny", "m2"])
def test_experts_change_nothing_at_first(cut: str, deep: Any):
    plain = PrunedStudent(deep.unet, Layout(cut)).unet
    for init in ("sibling", "random"):
        mixed = PrunedStudent(deep.unet, Layout(cut, 3, init)).unet
        assert sum(n.endswith(".experts") for n in mixed.state_dict()) == 6
        with torch.no_grad():
            a, b = (unet(*inputs()).sample for unet in (plain, mixed))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_second_experts_are_the_pruned_layers_convolutions(deep: Any):
    teacher = deep.unet.state_dict()
    initial = Layout("base", 2).initial(deep.unet)
    own, sibling = initial["down_blocks.0.resnets.0.conv1.experts"].chunk(2)
    assert torch.equal(own, teacher["down_blocks.0.resnets.0.conv1.weight"])
    assert torch.equal(sibling, teacher["down_blocks.0.resnets.1.conv1.weight"])
    own, sibling = initial["up_blocks.3.resnets.1.conv2.experts"].chunk(2)
    assert torch.equal(own, teacher["up_blocks.3.resnets.2.conv2.weight"])
    assert torch.equal(sibling, teacher["up_blocks.3.resnets.1.conv2.weight"])
    # shapes do not match: 24 inputs in the first layer, 16 in the pruned one
    own, other = initial["up_blocks.3.resnets.0.conv1.experts"].chunk(2)
    assert torch.equal(own, teacher["up_blocks.3.resnets.0.conv1.weight"])
    assert float(other.abs().max()) <= own[0].numel() ** -0.5
    again = Layout("base", 2).initial(deep.unet)["up_blocks.3.resnets.0.conv1.experts"]
    assert torch.equal(again.chunk(2)[1], other)
    drawn = Layout("base", 2, "random").initial(deep.unet)
    assert not torch.equal(
        drawn["down_blocks.0.resnets.0.conv1.experts"].chunk(2)[1],
        teacher["down_blocks.0.resnets.1.conv1.weight"],
    )


def test_siblings_are_of_the_same_stage_and_convolution(deep: Any):
    names = siblings("up_blocks.3.resnets.2.conv2.weight", deep.unet.state_dict())
    assert names == [f"up_blocks.3.resnets.{k}.conv2.weight" for k in (1, 0)]


# ------------------------------------------------------------------------------ files


def trained(unet: Any, layout: Layout, form: str = "whole") -> PrunedStudent:
    trainee = PrunedStudent(unet, layout, form)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in trainee.unet.parameters():
            p.add_(torch.randn(p.shape, generator=g) / 50)
    return trainee


@pytest.mark.parametrize(
    "layout", [Layout("base"), Layout("tiny", 2), Layout("m2", 0, attention="gri")]
)
def test_whole_weights_are_read_as_they_were_trained(layout: Layout, deep: Any, tmp_path: Path):
    trainee, path = trained(deep.unet, layout), tmp_path / "s.safetensors"
    trainee.write(path, {}, torch.float32)
    student = load_pruned(path, deep.unet, layout.cut)
    with torch.no_grad():
        assert torch.allclose(student(*inputs()).sample, trainee.unet(*inputs()).sample, atol=1e-6)


def test_differences_make_another_student_of_a_fine_tune(
    deep: Any, tiny: ModuleType, tmp_path: Path
):
    trainee = trained(deep.unet, Layout("base", 2), "difference")
    path = tmp_path / "s.safetensors"
    trainee.write(path, {"base": "tiny"}, torch.float32)
    here = load_pruned(path, deep.unet, "base").state_dict()
    for name, value in trainee.unet.state_dict().items():
        torch.testing.assert_close(here[name], value, atol=2e-3, rtol=0)
    other = tiny.pipeline(tmp_path / "w", seed=5, **tiny.DEEP).unet
    there, begun = load_pruned(path, other, "base").state_dict(), Layout("base", 2).initial(other)
    name = "down_blocks.1.resnets.0.conv1.weight"
    delta = here[name] - Layout("base", 2).initial(deep.unet)[name]
    torch.testing.assert_close(there[name] - begun[name], delta, atol=1e-6, rtol=0)


def test_a_student_with_experts_may_begin_with_one_without(deep: Any, tmp_path: Path):
    plain, path = trained(deep.unet, Layout("base")), tmp_path / "s.safetensors"
    plain.write(path, {}, torch.float32)
    mixed = PrunedStudent(deep.unet, Layout("base", 2))
    mixed.begin_as(path)
    with torch.no_grad():
        a, b = plain.unet(*inputs()).sample, mixed.unet(*inputs()).sample
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def fails(path: Path, unet: Any, cut: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        check_student(path, unet, cut)
    assert "\n" not in str(error.value)


def test_weights_of_another_cut_are_one_line(
    deep: Any, pipeline: Any, deep_weights: dict[str, str], tmp_path: Path
):
    small = Path(deep_weights["bk-sdm-small"])
    fails(small, deep.unet, "base", "weights of the cut small, expected base")
    fails(small, pipeline.unet, "small", "layers per stage")
    bare = tmp_path / "bare.safetensors"
    tensors = {k: v.float() for k, v in load_file(small).items() if not k.endswith(".scale")}
    save_file(tensors, bare)  # says nothing of a layout
    fails(bare, deep.unet, "base", "another cut or architecture, .* of base, such as")
    odd = tmp_path / "odd.safetensors"
    save_file(tensors, odd, {"layout": json.dumps({"cut": "base", "mystery": 1})})
    fails(odd, deep.unet, "base", "its layout is")


# ------------------------------------------------------------------------------ methods


def sample(method: Any, pipe: Any, settings: SampleSettings = SETTINGS) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    c, n = torch.randn(2, 24, 32, generator=g), torch.randn(2, 24, 32, generator=g)
    batch = make_batch([ImageId("p0", 0), ImageId("p1", 0)], c, n, (4, 8, 8))
    return method.prepare(pipe, settings).sample(batch)


def test_the_method_samples_the_network_of_its_weights(deep: Any, deep_weights: dict[str, str]):
    import copy

    method: Any = registry.method("bk-sdm-base", weights=deep_weights)
    own = copy.copy(deep)
    own.unet = load_pruned(Path(deep_weights["bk-sdm-base"]), deep.unet, "base")
    assert torch.equal(sample(method, deep), sample(registry.method("dpm++"), own))


def test_the_key_names_the_weights_and_their_base(deep: Any, deep_weights: dict[str, str]):
    base, m4 = (registry.method(n, weights=deep_weights) for n in ("bk-sdm-base", "a-sdm-m4"))
    a, b = (m.content(deep, SETTINGS) for m in (base, m4))
    assert a["weights"]["difference_of"] == "tiny"
    assert a["weights"]["sha256"] != b["weights"]["sha256"]
    assert (a["cut"], b["cut"], a["guidance"]) == ("base", "m1", "cfg")


def test_a_model_without_the_stages_is_a_reason(pipeline: Any, deep_weights: dict[str, str]):
    reason = registry.method("a-sdm-m2", weights=deep_weights).skip(pipeline, SETTINGS)
    assert reason is not None
    assert "layers per stage, expected 2 in each" in reason
    missing = registry.method("a-sdm-m6").skip(pipeline, SETTINGS)
    assert missing is not None
    assert "--weights a-sdm-m6=PATH" in missing


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with hub_server.in_place_of_the_hub(monkeypatch, tmp_path / "hub") as server:
        yield server


@pytest.mark.parametrize(
    ("method", "cut", "repository"),
    [
        ("bk-sdm-base", "base", "nota-ai/bk-sdm-base"),
        ("bk-sdm-small", "small", "nota-ai/bk-sdm-small"),
        ("bk-sdm-tiny", "tiny", "nota-ai/bk-sdm-tiny"),
        ("small-sd", "base", "segmind/small-sd@refs/pr/3"),
        ("tiny-sd", "tiny", "segmind/tiny-sd@refs/pr/1"),
    ],
)
def test_published_weights_come_from_the_hub(
    method: str, cut: str, repository: str, hub: Any, deep: Any, tmp_path: Path
):
    """A diffusers folder of the authors' layout; of it only the U-Net is fetched."""
    student, folder = trained(deep.unet, Layout(cut)).unet, tmp_path / "published"
    student.save_pretrained(folder / "unet")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"unwanted")
    name, _, revision = repository.partition("@")
    hub.add(name, folder, revision or "main")
    ready: Any = registry.method(method, weights={method: repository})
    assert ready.skip(deep, SETTINGS) is None
    assert not any("text_encoder" in name for name in hub.downloads())
    network = ready.network(deep, SETTINGS)
    with torch.no_grad():
        torch.testing.assert_close(network(*inputs()).sample, student(*inputs()).sample)


#: What Stable Diffusion 1's U-Net is known by.
SD1 = SimpleNamespace(config=SimpleNamespace(cross_attention_dim=768, in_channels=4))


@pytest.mark.parametrize("name", sorted(published_cards("bk_sdm")))
def test_a_card_is_fetched_at_its_revision_and_found(
    name: str, hub: Any, deep: Any, tmp_path: Path
):
    card, method = published_cards("bk_sdm")[name], registry.method(name)
    folder = tmp_path / "published"
    trained(deep.unet, Layout(card["cut"])).unet.save_pretrained(folder / "unet")
    hub.add(card["repository"], tmp_path, "main")
    hub.add(card["repository"], folder, card["revision"])
    hub.licenses[card["repository"]] = "creativeml-openrail-m"
    with pytest.raises(NotAvailable, match=f"--revision {card['revision']} --include 'unet/"):
        method.weights.find(SD1)
    (need,) = method_needs(name, method.weights)
    download = look_up(need)
    assert set(download.sizes) == {"unet/config.json", FILE}
    assert download.license == "creativeml-openrail-m"
    bring(download, lambda file, size: None)
    path = method.weights.find(SD1)
    assert method.weights.label(path) == {"of": card["of"]}
    assert registry.METHODS[name].weights == name
    check_student(path, deep.unet, card["cut"])


def test_the_license_stands_in_the_requirements(deep: Any, deep_weights: dict[str, str]):
    method = registry.method("tiny-sd", weights=deep_weights)
    assert training_requirements("tiny", method, deep).license == "CreativeML OpenRAIL-M"


def test_a_repository_of_pickles_is_one_line(hub: Any, deep: Any, tmp_path: Path):
    """As the main branches of segmind's are."""
    folder = tmp_path / "published" / "unet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    hub.add("segmind/tiny-sd", folder.parent)
    reason = registry.method("tiny-sd", weights={"tiny-sd": "segmind/tiny-sd"}).skip(deep, SETTINGS)
    assert reason == "tiny-sd: the repository has no U-Net in .safetensors"


def test_experts_are_placed_at_random_weights_too(deep: Any, tmp_path: Path):
    path = random_weights.pruned(deep.unet, tmp_path / "e.safetensors", 3, cut="base", experts=2)
    method = registry.method("bk-sdm-base", weights={"bk-sdm-base": str(path)})
    assert method.skip(deep, SETTINGS) is None
    assert method.content(deep, SETTINGS)["weights"]["experts"] == 2
    whole = sample(method, deep)
    assert bool(torch.isfinite(whole).all())
