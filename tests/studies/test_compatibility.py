"""Pairs of accelerators: each runs as the matrix says, or has its reason there."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.sampling import ImageId, SampleSettings, make_batch
from sunbench.studies.compatibility import page, pairings

SETTINGS = SampleSettings(4, 4.0)
NAMES = ("ddim", "sun", "lcm-lora", "tgate", "cfg++", "gits", "guided-distill")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from sunbench.methods import wrapped

    monkeypatch.setattr(wrapped, "compiler_missing", lambda kind: "no compiler")


def test_every_pair_has_a_verdict(no_compiler: None, pipeline: Any, weights: dict[str, str]):
    pairs = pairings(pipeline, SETTINGS, methods=NAMES, weights=weights)
    assert len(pairs) == len(NAMES) * len(registry.WRAPPERS)
    verdicts = {(p.wrapper, p.method): p.reason for p in pairs}
    assert verdicts["deepcache", "lcm-lora"] is None
    assert verdicts["deepcache", "gits"] is None
    assert verdicts["deepcache", "sun"] == "deepcache:sun: sun calls its U-Net in a way of its own"
    assert "change from step to step" in str(verdicts["int8", "tgate"])
    assert verdicts["compile", "ddim"] == "no compiler"


def test_methods_on_a_network(no_compiler: None, deep: Any, deep_weights: dict[str, str]):
    names = ("ddim", "sun", "lcm")
    pairs = pairings(deep, SETTINGS, methods=names, networks=("bk-sdm-base",), weights=deep_weights)
    on = {p.method: p for p in pairs if p.prefix == "bk-sdm-base+"}
    assert on["ddim"].reason is None
    assert "SUN adapter for another architecture" in str(on["sun"].reason)
    assert on["lcm"].reason == "bk-sdm-base+lcm: lcm has a network of its own"
    text = page(pairs, "tiny", SETTINGS)
    assert "| `bk-sdm-base+` |" in text
    assert ". the method has a network of its own" in text


def test_the_page_numbers_the_reasons(no_compiler: None, pipeline: Any, weights: dict[str, str]):
    pairs = pairings(pipeline, SETTINGS, methods=NAMES, weights=weights)
    text = page(pairs, "tiny", SETTINGS)
    assert text.count("\n| `") == len(NAMES)
    lcm = next(line for line in text.splitlines() if line.startswith("| `lcm-lora`"))
    assert "runs" in lcm
    for number in range(1, 3):
        assert f"no ({number})" in text
        assert f"\n{number}. " in text


@pytest.mark.parametrize("name", ["ddim", "lcm-lora", "dpm++-sde", "tcd-lora", "gits"])
def test_deepcache_under_a_method(
    name: str, pipeline: Any, tiny: ModuleType, weights: dict[str, str]
):
    """What is said to run does, at the work that was planned; the pipeline is as before."""
    method: Any = registry.method(f"deepcache:{name}", weights=weights)
    texts = torch.randn(2, 2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    before = pipeline.unet
    sampler = method.prepare(pipeline, SETTINGS)
    outs = [
        sampler.sample(make_batch([ImageId("p", 0), ImageId("q", 0)], *texts, (4, 8, 8)))
        for _ in range(2)
    ]
    assert torch.equal(*outs)
    assert sampler.nfe == pytest.approx(method.expected_nfe(pipeline, SETTINGS))
    plain: Any = registry.method(name, weights=weights)
    assert sampler.nfe < plain.evaluations(SETTINGS)
    assert pipeline.unet is before
    assert method.content(pipeline, SETTINGS)["deepcache"] == {"interval": 3, "branch": 0}
