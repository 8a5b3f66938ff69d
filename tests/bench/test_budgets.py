"""Budgets of U-Net evaluations: the steps that they pay for, or the reason why none do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sunbench import registry
from sunbench.bench import Request
from sunbench.bench.cells import steps_for
from sunbench.errors import UserError
from sunbench.sampling import SampleSettings

SETTINGS = SampleSettings(1, 4.0)


@pytest.mark.parametrize(
    ("name", "budget", "steps"),
    [
        ("ddim", 8, 4),
        ("ddim-unguided", 8, 8),
        ("ddim-low-guidance", 8, 4),
        ("sun", 8, 8),
        ("lcm-lora-cfg", 8, 4),
        ("hyper-sd-cfg", 16, 8),
        ("tgate", 7, 5),
        ("adaptive-guidance", 9, 4),
        ("compile:sun", 6, 6),
    ],
)
def test_steps_that_a_budget_pays_for(name: str, budget: int, steps: int, pipeline: Any):
    method = registry.method(name)
    assert steps_for(method, pipeline, SETTINGS, budget) == (steps, None)


@pytest.mark.parametrize("budget", [5, 8, 13])
@pytest.mark.parametrize("name", ["interval-guidance", "deepcache"])
def test_guidance_and_layers_that_are_left_out_leave_steps(name: str, budget: int, pipeline: Any):
    """The next step would be too much."""
    method: Any = registry.method(name)
    steps, reason = steps_for(method, pipeline, SETTINGS, budget)
    assert reason is None
    costs = [method.expected_nfe(pipeline, SampleSettings(n, 4.0)) for n in (steps, steps + 1)]
    assert costs[0] <= budget < costs[1]
    assert steps >= budget // 2


@pytest.mark.parametrize(
    ("name", "budget", "words"),
    [
        ("ddim", 7, "7 NFE asked, 3 steps take 6, 4 8"),
        ("ddim", 1, "1 NFE asked, 1 step takes 2"),
        ("linear-ag", 6, "6 NFE asked, 4 steps take 5, 5 7"),
    ],
)
def test_a_budget_that_cannot_be_met_says_why(name: str, budget: int, words: str, pipeline: Any):
    assert steps_for(registry.method(name), pipeline, SETTINGS, budget)[1] == words


def test_a_method_from_outside_has_evaluations_alone(pipeline: Any):
    @dataclass
    class Outside:
        name: str = "outside"

        def evaluations(self, settings: SampleSettings) -> int:
            return 3 * settings.steps

    assert steps_for(Outside(), pipeline, SETTINGS, 9) == (3, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nfe": (8,)}, "given steps (4, 8) and nfe (8,), expected one of them"),
        ({"steps": (), "nfe": (0,)}, "given 0 NFE, expected 1 to"),
        ({"steps": (), "nfe": (8, 8)}, "given nfe (8, 8), expected each once"),
        ({"steps": (), "nfe": ()}, "no steps"),
    ],
)
def test_wrong_budgets_are_refused(change: dict[str, Any], words: str):
    with pytest.raises(UserError) as caught:
        Request(**change)
    assert words in str(caught.value)


def test_all_stands_for_every_method():
    names = registry.chosen(("all",))
    assert names == tuple(registry.METHODS)
    assert registry.chosen(("ddim", "sun")) == ("ddim", "sun")
    assert len(names) >= 25
    Request(methods=names)


def test_a_run_at_a_budget(world: Any, tmp_path: Path, tiny: ModuleType):
    """Methods at equal NFE in one run; what cannot meet the budget is a reason in its row."""
    from sunbench.bench.run import execute
    from sunbench.bench.verify import verify_run
    from sunbench.store import RunFolder

    request = Request(
        models=(str(world.card),),
        methods=("ddim", "ddim-unguided", "tgate", "adaptive-guidance"),
        steps=(),
        nfe=(4, 5),
        images=4,
        metrics=("psnr",),
        batch=4,
        timing="none",
        floor=False,
    )
    execute(request, tmp_path / "run")
    rows = RunFolder(tmp_path / "run").read_results()
    at = {(r.method, r.steps): r for r in rows if r.role == "candidate"}
    assert (at["ddim", 2].nfe, at["ddim-unguided", 4].nfe, at["ddim-unguided", 5].nfe) == (4, 4, 5)
    assert at["tgate", 3].nfe == 4
    assert at["adaptive-guidance", 2].nfe is not None
    assert 3 <= at["adaptive-guidance", 2].nfe <= 4
    pairs = RunFolder(tmp_path / "run").read_results_document().pairs
    cells = {("ddim", 2), ("ddim-unguided", 4), ("tgate", 3), ("adaptive-guidance", 2)}
    assert {frozenset(p.cells) for p in pairs} == {frozenset(c) for c in combinations(cells, 2)}
    assert {(p.nfe, p.place) for p in pairs} == {(4, "4 NFE")}
    assert all(p.difference_low <= p.difference <= p.difference_high for p in pairs)
    assert verify_run(tmp_path / "run")[1] == []
