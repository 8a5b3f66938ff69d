"""Students as differences: rounded once, exact ever after, and pluggable into a fine-tune."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.differences import FORM, added, is_difference, write_difference
from sunbench.methods.students import INPUT, load_student
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(4, 4.0)


@pytest.fixture
def student(pipeline: Any, distilled: dict[str, Path]) -> Any:
    """A student near its U-Net, as training leaves it."""
    made, g = load_student(distilled["lcm"], pipeline.unet), torch.Generator().manual_seed(0)
    base = pipeline.unet.state_dict()
    state = {
        k: base[k] + 0.01 * torch.randn(x.shape, generator=g) if k in base else x
        for k, x in made.state_dict().items()
    }
    made.load_state_dict(state, assign=True)
    return made


@pytest.fixture
def file(student: Any, pipeline: Any, tmp_path: Path) -> Path:
    path = tmp_path / "lcm.safetensors"
    write_difference(path, student.state_dict(), pipeline.unet.state_dict(), {"base": "tiny"})
    return path


def test_rounded_by_half_a_step_of_each_channel(student: Any, pipeline: Any, file: Path):
    base, own = pipeline.unet.state_dict(), student.state_dict()
    read = load_student(file, pipeline.unet).state_dict()
    assert read.keys() == own.keys()
    assert torch.equal(read[INPUT], own[INPUT])
    for name in base:
        delta, off = own[name] - base[name], (read[name] - own[name]).abs()
        if delta.ndim < 2:
            assert float(off.max()) <= 2e-7 * float(1 + base[name].abs().max())
        else:
            step = delta.flatten(1).abs().amax(1) / 127
            assert bool((off.flatten(1) <= 0.501 * step[:, None] + 1e-7).all())


def test_written_again_it_is_the_same(pipeline: Any, file: Path, tmp_path: Path):
    """So what was measured is what is loaded, whoever wrote it last."""
    read = load_student(file, pipeline.unet).state_dict()
    again = tmp_path / "again.safetensors"
    write_difference(again, read, pipeline.unet.state_dict(), {"base": "tiny"})
    first, second = load_file(file), load_file(again)
    for name, x in first.items():
        if x.dtype == torch.int8:
            assert torch.equal(x, second[name]), name
    reread = load_student(again, pipeline.unet).state_dict()
    assert all(torch.allclose(reread[k], x, atol=1e-6) for k, x in read.items())


def test_a_quarter_of_the_room(student: Any, file: Path):
    kernels = [x for k, x in student.state_dict().items() if x.ndim > 1 and k != INPUT]
    stored = load_file(file)
    packed = [x for x in stored.values() if x.dtype == torch.int8]
    assert sum(x.numel() for x in packed) == sum(x.numel() for x in kernels)
    assert len(packed) == len(kernels)


def test_on_another_unet_the_same_differences(pipeline: Any, file: Path):
    other = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.5)
    here, there = added(file, pipeline.unet), added(file, other)
    base = pipeline.unet.state_dict()
    for name, x in here.items():
        shift = 0.5 if name in base else 0.0
        torch.testing.assert_close(there[name], x + shift, atol=1e-5, rtol=1e-5)


def test_samplers_take_them(
    student: Any, pipeline: Any, tiny: ModuleType, file: Path, monkeypatch: pytest.MonkeyPatch
):
    file = file.rename(file.parent / "4.safetensors")
    monkeypatch.setenv("SUNBENCH_LCM", str(file))
    monkeypatch.setenv("SUNBENCH_GUIDED_DISTILL", str(file.parent))
    g = torch.Generator().manual_seed(1)
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=g)
    for name in ("lcm", "guided-distill"):
        method = registry.method(name)
        assert method.skip(pipeline, SETTINGS) is None
        assert method.content()["distilled"]["any"]["difference_of"] == "tiny"
        sampler: Any = method.prepare(pipeline, SETTINGS)
        rounded = load_student(file, pipeline.unet).state_dict()
        own = sampler.pipeline.unet.state_dict()
        assert all(torch.equal(own[k], rounded[k]) for k in rounded)
        ids = [ImageId("p0", 0), ImageId("p1", 0)]
        made = sampler.sample(make_batch(ids, texts[0], texts[1], (4, 8, 8)))
        sampler.pipeline.unet = student
        whole = sampler.sample(make_batch(ids, texts[0], texts[1], (4, 8, 8)))
        assert float((made - whole).abs().max()) < 0.05 * float(whole.abs().max())
        assert not torch.equal(made, whole)


def test_files_that_do_not_fit(
    pipeline: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tensors = load_file(file)
    name = next(k for k, x in tensors.items() if x.dtype == torch.int8)

    def reason(changed: dict[str, torch.Tensor]) -> str:
        path = tmp_path / "bad.safetensors"
        save_file(changed, path, FORM)
        monkeypatch.setenv("SUNBENCH_LCM", str(path))
        return registry.method("lcm").skip(pipeline, SETTINGS) or ""

    without = {k: x for k, x in tensors.items() if k != name + ".scale"}
    assert f"lacks {name}.scale" in reason(without)
    fewer = {k: x for k, x in tensors.items() if not k.startswith(name)}
    assert "lacks 1 of" in reason(fewer)
    plain = {k: x for k, x in tensors.items() if k != INPUT}
    assert "takes no guidance" in reason(plain)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match="announces"):
        is_difference(file)
    monkeypatch.setenv("SUNBENCH_LCM", str(file))
    assert "announces" in (registry.method("lcm").skip(pipeline, SETTINGS) or "")
