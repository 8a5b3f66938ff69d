"""Students as differences: rounded once, exact ever after, and pluggable into a fine-tune."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.common.deltas import (
    FORM,
    _digits,
    _packed,
    _unpacked,
    added,
    is_difference,
    write_difference,
)
from sunbench.methods.common.students import INPUT, load_student
from sunbench.methods.common.weights import metadata
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(4, 4.0)


@pytest.fixture
def student(pipeline: Any, distilled: dict[str, Path]) -> Any:
    """A student near its U-Net, as training leaves it."""
    latents, g = load_student(distilled["lcm"], pipeline.unet), torch.Generator().manual_seed(0)
    base = pipeline.unet.state_dict()
    state = {
        k: base[k] + 0.01 * torch.randn(x.shape, generator=g) if k in base else x
        for k, x in latents.state_dict().items()
    }
    latents.load_state_dict(state, assign=True)
    return latents


@pytest.fixture
def file(student: Any, pipeline: Any, tmp_path: Path) -> Path:
    path = tmp_path / "lcm.safetensors"
    write_difference(path, student.state_dict(), pipeline.unet.state_dict(), {"base": "tiny"})
    return path


@pytest.mark.parametrize(("levels", "most"), [(255, 1e-4), (15, 0.02), (9, 0.04), (3, 0.22)])
def test_rounding_costs_what_the_levels_say(
    levels: int, most: float, student: Any, pipeline: Any, tmp_path: Path
):
    """Squared error of the rounded differences over their size; 0.19 is a Gaussian's at 3 levels."""
    base, own = pipeline.unet.state_dict(), student.state_dict()
    path = tmp_path / "x.safetensors"
    write_difference(path, own, base, levels=levels)
    read = load_student(path, pipeline.unet).state_dict()
    assert read.keys() == own.keys()
    torch.testing.assert_close(read[INPUT], own[INPUT], atol=1e-3, rtol=1e-3)
    error = sum(float((read[k] - own[k]).square().sum()) for k in base)
    size = sum(float((own[k] - base[k]).square().sum()) for k in base)
    assert most / 10 < error / size < most


@pytest.mark.parametrize("levels", [255, 9, 3])
def test_written_again_it_is_the_same(levels: int, student: Any, pipeline: Any, tmp_path: Path):
    """So what was measured is what is loaded, whoever wrote it last."""
    base, first, again = (
        pipeline.unet.state_dict(),
        tmp_path / "1.safetensors",
        tmp_path / "2.safetensors",
    )
    write_difference(first, student.state_dict(), base, levels=levels)
    read = load_student(first, pipeline.unet).state_dict()
    write_difference(again, read, base, levels=levels)
    reread = load_student(again, pipeline.unet).state_dict()
    for name, x in read.items():
        size = float(x.abs().max())
        torch.testing.assert_close(reread[name], x, atol=2e-7 * (1 + size), rtol=0)


@given(levels=st.integers(1, 127).map(lambda k: 2 * k + 1), n=st.integers(1, 30))
def test_digits_survive_their_words(levels: int, n: int):
    g = torch.Generator().manual_seed(n)
    digits = torch.randint(levels, (3, n), generator=g)
    digits[0] = levels - 1
    digits[1] = 0
    words = _packed(digits, levels)
    assert torch.equal(_unpacked(words, levels, n), digits)
    assert words.shape == (3, -(-n // _digits(levels)))


def test_digits_a_word():
    assert [_digits(levels) for levels in (255, 15, 9, 5, 3)] == [2, 4, 5, 6, 10]


def test_all_zeros_are_the_base(pipeline: Any, student: Any, tmp_path: Path):
    base = pipeline.unet.state_dict()
    same = {k: base.get(k, x) for k, x in student.state_dict().items()}
    path = tmp_path / "x.safetensors"
    write_difference(path, same, base, levels=3)
    read = load_student(path, pipeline.unet).state_dict()
    assert all(torch.equal(read[k], base[k]) for k in base)


def frozen_below(student: Any, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The student with the stages on the way down as they were."""
    state = student.state_dict()
    return {k: base[k] if k.startswith("down_blocks.") else x for k, x in state.items()}


def test_what_training_left_alone_is_left_out(pipeline: Any, student: Any, tmp_path: Path):
    """And read bit-exact as a file that has every zero."""
    base, path = pipeline.unet.state_dict(), tmp_path / "x.safetensors"
    write_difference(path, frozen_below(student, base), base, levels=15)
    tensors, zeros = load_file(path), {}
    left_out = {k: x for k, x in base.items() if k.startswith("down_blocks.")}
    assert not tensors.keys() & left_out.keys()
    for name, x in left_out.items():
        if x.ndim < 2:
            zeros[name] = torch.zeros_like(x).half()
            continue
        zeros[name] = _packed(torch.full((len(x), x[0].numel()), 7), 15)
        zeros[f"{name}.scale"] = torch.full((len(x),), 2**-24).half()
    save_file({**tensors, **zeros}, tmp_path / "whole.safetensors", {**FORM, "levels": "15"})
    read, whole = added(path, base), added(tmp_path / "whole.safetensors", base)
    assert read.keys() == whole.keys() == student.state_dict().keys()
    assert all(torch.equal(read[k].view(torch.int32), whole[k].view(torch.int32)) for k in read)


def test_what_is_missing_beside_it_is_a_reason(pipeline: Any, student: Any, tmp_path: Path):
    base, path = pipeline.unet.state_dict(), tmp_path / "x.safetensors"
    write_difference(path, frozen_below(student, base), base)
    assert lcm(path).skip(pipeline, SETTINGS) is None
    tensors, name = load_file(path), "conv_in.weight"
    fewer = {k: x for k, x in tensors.items() if not k.startswith(name)}
    save_file(fewer, path, metadata(path))
    assert "lacks" in (lcm(path).skip(pipeline, SETTINGS) or "")


def test_on_another_unet_the_same_differences(pipeline: Any, file: Path):
    other = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.5)
    here, there = added(file, pipeline.unet.state_dict()), added(file, other.state_dict())
    base = pipeline.unet.state_dict()
    for name, x in here.items():
        shift = 0.5 if name in base else 0.0
        torch.testing.assert_close(there[name], x + shift, atol=1e-5, rtol=1e-5)


def test_samplers_take_them(student: Any, pipeline: Any, tiny: ModuleType, file: Path):
    file = file.rename(file.parent / "4.safetensors")
    weights = {"lcm": str(file), "guided-distill": str(file.parent)}
    g = torch.Generator().manual_seed(1)
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=g)
    for name in ("lcm", "guided-distill"):
        method = registry.method(name, weights=weights)
        assert method.skip(pipeline, SETTINGS) is None
        assert method.content(pipeline, SETTINGS)["weights"]["difference_of"] == "tiny"
        sampler: Any = method.prepare(pipeline, SETTINGS)
        rounded = load_student(file, pipeline.unet).state_dict()
        own = sampler.pipeline.unet.state_dict()
        assert all(torch.equal(own[k], rounded[k]) for k in rounded)
        ids = [ImageId("p0", 0), ImageId("p1", 0)]
        latents = sampler.sample(make_batch(ids, texts[0], texts[1], (4, 8, 8)))
        sampler.pipeline.unet = student
        whole = sampler.sample(make_batch(ids, texts[0], texts[1], (4, 8, 8)))
        assert float((latents - whole).abs().max()) < 0.05 * float(whole.abs().max())
        assert not torch.equal(latents, whole)


def lcm(path: Path) -> Any:
    return registry.method("lcm", weights={"lcm": str(path)})


def test_files_that_do_not_fit(pipeline: Any, file: Path, tmp_path: Path):
    tensors = load_file(file)
    name = next(k for k, x in tensors.items() if x.dtype == torch.int16)

    def reason(changed: dict[str, torch.Tensor], levels: str = "255") -> str:
        path = tmp_path / "bad.safetensors"
        save_file(changed, path, {**FORM, "levels": levels})
        return lcm(path).skip(pipeline, SETTINGS) or ""

    without = {k: x for k, x in tensors.items() if k != name + ".scale"}
    assert f"lacks 1 of {len(tensors)} tensors, such as {name}.scale" in reason(without)
    fewer = {k: x for k, x in tensors.items() if not k.startswith(name)}
    assert "lacks 2 of" in reason(fewer)
    assert "has other shapes of" in reason(tensors, "3")
    assert "expected an odd number from 3 to 255" in reason(tensors, "8")
    assert "its levels are 'x', expected a number" in reason(tensors, "x")
    plain = {k: x for k, x in tensors.items() if k != INPUT}
    assert "takes no guidance" in reason(plain)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match="announces"):
        is_difference(file)
    assert "announces" in (lcm(file).skip(pipeline, SETTINGS) or "")
