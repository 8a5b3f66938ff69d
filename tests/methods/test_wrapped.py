"""Wrappers of any method: the same images within rounding, and a network that is given back."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods import wrapped
from sunbench.sampling import ImageId, Method, SampleSettings, make_batch

SETTINGS = SampleSettings(3, 4.0)
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs torchao"
)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``torch.compile`` that traces the network and runs it as it is: no compiler is needed."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: real(f, backend="eager"))
    yield
    torch.compiler.reset()


def sampled(method: Method, pipeline: Any, tiny: ModuleType) -> torch.Tensor:
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    batch = make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8))
    sampler = method.prepare(pipeline, SETTINGS)
    out = sampler.sample(batch)
    assert sampler.nfe == method.evaluations(SETTINGS)
    return out


@pytest.mark.parametrize("name", ["ddim", "sun", "lcm-lora"])
def test_compiled_methods_sample_as_they_are(
    name: str, eager: None, pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    plain = registry.method(name, weights=weights)
    expected = sampled(plain, pipeline, tiny)
    plain.release(pipeline)
    method = registry.method(f"compile:{name}", weights=weights)
    for _ in range(2):  # prepared anew at every turn of a timing pass
        torch.testing.assert_close(sampled(method, pipeline, tiny), expected, rtol=1e-4, atol=1e-4)
        method.release(pipeline)
    assert "forward" not in vars(pipeline.unet)


def test_sun_compiles_whole_and_once(
    eager: None, pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    """Two graphs, of a batch's first step and of the later ones, for all batches of a shape."""
    counters.clear()
    method = registry.method("compile:sun", weights=weights)
    sampler = method.prepare(pipeline, SETTINGS)
    graphs = []
    for k in range(2):
        texts = torch.randn(2, 1, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(k))
        sampler.sample(make_batch([ImageId("p", k)], *texts, (4, 8, 8)))
        graphs.append(counters["stats"]["unique_graphs"])
    method.release(pipeline)
    assert graphs == [2, 2]
    assert not counters["graph_break"]


def test_what_a_method_builds_is_compiled_once(eager: None, pipeline: Any, weights: dict[str, str]):
    method = registry.method("compile:lcm-lora", weights=weights)
    networks = []
    for _ in range(2):
        networks.append(method.prepare(pipeline, SETTINGS).counted)  # type: ignore[attr-defined]
        method.release(pipeline)
    assert networks[0] is networks[1] is not pipeline.unet


@needs_torchao
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ddim", "sun", "boostdiff-lora"])
def test_int8_is_near_and_undone(
    name: str, pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    plain = registry.method(name, weights=weights)
    expected = sampled(plain, pipeline, tiny)
    plain.release(pipeline)
    method = registry.method(f"int8:{name}", weights=weights)
    ours = sampled(method, pipeline, tiny)
    method.release(pipeline)
    size = float(expected.abs().max())
    assert 0 < float((ours - expected).abs().max()) < 0.1 * size
    after = pipeline.unet.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(sampled(plain, pipeline, tiny), expected)
    plain.release(pipeline)


def test_contents_say_what_wraps(pipeline: Any):
    plain, method = registry.method("ddim"), registry.method("compile:ddim")
    inner, content = (m.content(pipeline, SETTINGS) for m in (plain, method))
    assert content.pop("compile")["torch"] == torch.__version__
    assert content == {**inner, "method": "compile:ddim"}
    assert method.name == "compile:ddim"


def test_where_nothing_compiles_the_cell_says_so(pipeline: Any, monkeypatch: pytest.MonkeyPatch):
    def broken(f: Any) -> Any:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", broken)
    wrapped.compiler_missing.cache_clear()
    try:
        reason = registry.method("compile:ddim").skip(pipeline, SETTINGS)
    finally:
        wrapped.compiler_missing.cache_clear()
    assert reason == "torch.compile does not work here (RuntimeError: no C++ compiler)"


def test_without_torchao_the_cell_says_so(pipeline: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    method = registry.method("int8:ddim")
    assert method.skip(pipeline, SETTINGS) == "int8 weights need torchao: pip install torchao"
    assert method.content(pipeline, SETTINGS)["method"] == "int8:ddim"


@pytest.mark.parametrize("name", ["deepcache", "tgate"])
def test_layers_that_change_are_refused(name: str, pipeline: Any):
    reason = registry.method(f"compile:{name}").skip(pipeline, SETTINGS)
    assert reason == f"compile:{name}: the layers of {name} change from step to step"


@pytest.mark.parametrize("name", ["compiled:ddim", "compile:dimm", "compile:"])
def test_unknown_names(name: str):
    with pytest.raises(UserError, match="unknown method"):
        registry.method(name)


def test_weights_of_the_inner_method_are_known():
    registry.check_weights({"sun": "x"}, ["compile:sun"])
    assert registry.method_entry("compile:int8:sun").weights == "sun"
