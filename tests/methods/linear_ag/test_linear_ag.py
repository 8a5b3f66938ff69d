"""LinearAG: a rule that is known comes out, and what it leaves out is not evaluated."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from sunbench import registry
from sunbench.methods.common.fitted import write_step_tables
from sunbench.methods.common.training import TrainingJob
from sunbench.methods.linear_ag.fit import InnerProducts, rule_for
from sunbench.methods.linear_ag.method import is_guided
from sunbench.sampling import ImageId, SampleSettings, make_batch


def test_least_squares_find_a_known_rule():
    """e_n of each step is made of what came before, so nothing is left over."""
    g = torch.Generator().manual_seed(0)
    moments = InnerProducts(3)
    for _ in range(2):
        conditional = torch.randn(3, 5, 4, 4, 4, generator=g, dtype=torch.float64)
        first = 0.7 * conditional[0]
        second = 0.2 * conditional[0] - 0.5 * conditional[1] + 0.9 * conditional[0].flip(0)
        third = 1.5 * conditional[2] - 0.25 * second
        kept = [torch.cat(pair) for pair in zip((first, second, third), conditional, strict=True)]
        moments.add(kept)
    rule = moments.rule()
    assert rule[0, 0, 0] == pytest.approx(0.7)
    assert rule[2, 0].tolist() == pytest.approx([0, 0, 1.5], abs=1e-5)
    assert rule[2, 1].tolist()[1] == pytest.approx(-0.25, abs=1e-5)
    assert rule[2, 1, 2] == 0  # it is not known when it is estimated


def test_guided_steps():
    assert [is_guided(k, 8) for k in range(8)] == [True, False, True] + [False] * 5
    assert is_guided(0, 1)


def test_a_rule_that_is_right_gives_guidance_itself(pipeline: Any, tiny: ModuleType, tmp_path: Any):
    """Where both texts are one, e_n is e_p: a rule that says so changes nothing."""
    n = 6
    rule = torch.zeros(n, 2, n)
    rule[range(n), 0, range(n)] = 1
    write_step_tables(tmp_path / "linear-ag.safetensors", {n: rule}, {})
    text = torch.randn(2, 24, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    ids = [ImageId("p", 0), ImageId("q", 0)]
    settings = SampleSettings(n, 4.0)
    method = registry.method(
        "linear-ag", weights={"linear-ag": str(tmp_path / "linear-ag.safetensors")}
    )
    sampler = method.prepare(pipeline, settings)
    ours = sampler.sample(make_batch(ids, text, text, (4, 8, 8)))
    plain = registry.method("dpm++").prepare(pipeline, settings)
    expected = plain.sample(make_batch(ids, text, text, (4, 8, 8)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert sampler.nfe == method.evaluations(settings) == 8


def test_a_fit_on_the_tiny_base_predicts_what_it_saw(make: Callable[..., TrainingJob]):
    job = make("linear-ag", images=4)
    rule = rule_for(job, 4)
    assert rule.shape == (4, 2, 4)
    assert bool(torch.isfinite(rule).all())
    assert float(rule[0, 1].abs().max()) == 0


def test_another_strength_and_no_guidance_are_reasons(pipeline: Any, weights: dict[str, str]):
    method = registry.method("linear-ag", weights=weights)
    half = SampleSettings(2, 4.0, strength=0.5)
    assert "starts at pure noise" in str(method.skip(pipeline, half))
    assert "no second pass" in str(method.skip(pipeline, SampleSettings(4, 1.0)))
    assert "a linear rule fitted for 1, 4 steps, 5 asked" in str(
        method.skip(pipeline, SampleSettings(5, 4.0))
    )
