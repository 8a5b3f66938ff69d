"""Reductions of the world's check, on readings whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from sunbench.zoo.world import checks
from sunbench.zoo.world.captions import HeldOutPrompt, Mention, Scene

OPEN = Mention(thing=True, size=False, place=False, color=True, pattern=False)
PROMPTS = [
    HeldOutPrompt(Scene(3, 1, 0, 5, 2), Mention()),
    HeldOutPrompt(Scene(4, 1, 0, 6, 2), OPEN),
]


def test_only_what_is_named_counts() -> None:
    readings = torch.tensor([[3, 1, 0, 5, 2, 0], [4, 2, 0, 1, 0, 0]])
    right = checks.named_right(readings, PROMPTS)
    assert right == {"thing": 1.0, "size": 1.0, "place": 1.0, "color": 0.5, "pattern": 1.0}


def test_an_attribute_that_no_prompt_names_is_absent() -> None:
    assert "size" not in checks.named_right(torch.zeros(1, 6, dtype=torch.long), PROMPTS[1:])


def test_any_of_a_models_styles_is_right() -> None:
    readings = torch.tensor([[0] * 5 + [s] for s in (0, 1, 4, 2)])
    assert checks.style_right(readings, [0, 1, 2]) == 0.75


@pytest.mark.parametrize(("values", "wanted"), [([0] * 8, 0.0), ([0, 1, 2, 3] * 2, math.log(4))])
def test_entropy(values: list[int], wanted: float) -> None:
    assert checks.entropy(torch.tensor(values), 4) == pytest.approx(wanted)


def test_uniform_draws_spread_as_much_as_themselves() -> None:
    g = torch.Generator().manual_seed(0)
    uniform = torch.randint(12, (64,), generator=g)
    assert checks.evenness(uniform, 12, g) == pytest.approx(1, abs=0.08)
    assert checks.evenness(torch.zeros(64, dtype=torch.long), 12, g) == 0


def test_gradient_magnitude_of_a_ramp_and_of_nothing() -> None:
    ramp = torch.arange(16.0).expand(1, 3, 16, 16)
    assert checks.gradient_magnitudes(ramp).tolist() == pytest.approx([1])
    assert checks.gradient_magnitudes(torch.ones(1, 3, 16, 16)).tolist() == [0]
