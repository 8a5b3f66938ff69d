"""Checks of the zoo: verdicts, reading what images show, the page."""

from __future__ import annotations

import pytest
import torch

from sunbench.studies.zoo_check import _page, _solver_order
from sunbench.studies.zoo_control import agreement
from sunbench.studies.zoo_quality import Check, model_styles, models
from sunbench.zoo.world.captions import recipe


@pytest.mark.parametrize(
    ("value", "low", "high", "passed", "wanted"),
    [
        (0.5, 0.4, None, True, "at least 0.4"),
        (0.3, 0.4, None, False, "at least 0.4"),
        (0.06, None, 0.05, False, "at most 0.05"),
        (1.0, 0.85, 1.15, True, "0.85 to 1.15"),
        (1.2, 0.85, 1.15, False, "0.85 to 1.15"),
        (7.0, None, None, None, ""),
        (float("nan"), 0.4, None, False, "at least 0.4"),
    ],
)
def test_a_check_holds_within_what_is_wanted(
    value: float, low: float | None, high: float | None, passed: bool | None, wanted: str
) -> None:
    check = Check("x", value, low, high, 8)
    assert check.passed is passed
    assert check.wanted == wanted
    assert ("**no**" in check.line()) == (passed is False)


def test_the_base_comes_first_and_every_style_belongs_to_one_model() -> None:
    assert models()[0] == recipe()["models"][0]["name"]
    styles = [s for name in models() for s in model_styles(name)]
    assert sorted(styles) == list(range(len(recipe()["styles"])))


def test_the_order_of_solvers_counts_models() -> None:
    def table(ratio: float) -> list[Check]:
        name = "farther of DPM++, UniPC over DDIM, {} steps"
        return [Check(name.format(k), ratio, None, 1.0, 4) for k in (8, 12)]

    tables = {name: table(0.5) for name in models()}
    assert _solver_order(tables).value == len(models())
    tables[models()[0]][1] = table(1.5)[1]
    assert _solver_order(tables).value == len(models()) - 1


def test_the_page_says_what_falls_short() -> None:
    tables = {name: [Check("seed distance", 0.2, 0.4, None, 8)] for name in models()[:1]}
    page = _page(tables, 8)
    assert "0 of 1 checks hold. Short:" in page
    assert f"- {models()[0]}: seed distance 0.200, wanted at least 0.4" in page
    assert "Every check holds." in _page({models()[0]: [Check("a", 1, 0, None, 8)]}, 8)


def test_agreement_of_edges() -> None:
    lines = torch.zeros(1, 3, 16, 16)
    lines[:, :, 4] = 1
    moved, far = lines.roll(1, 2), lines.roll(6, 2)
    assert agreement(lines, lines).item() == pytest.approx(1)
    assert agreement(moved, lines).item() == pytest.approx(1)
    assert agreement(far, lines).item() == pytest.approx(0, abs=1e-5)
    assert 0.6 < agreement((lines + far).clamp(max=1), lines).item() < 0.7
