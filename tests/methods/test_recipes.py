"""The recipes of the zoo: one budget for every trained method."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
from trainings import CLASSES, FITTED

from sunbench.methods.a_sdm.settings import AssembledTraining
from sunbench.methods.bk_sdm.settings import PrunedTraining
from sunbench.methods.common.settings import settings_for
from sunbench.methods.guided_distill.settings import GuidedTraining
from sunbench.methods.sun.settings import SunTraining
from sunbench.registry import trained_methods
from sunbench.training.settings import TrainingSettings

RECIPES = Path(__file__).parents[2] / "methods" / "recipes"
UPDATES, BATCH = 600, 32  # 19,200 images
TRAINED = [name for name in trained_methods() if name not in FITTED]


def settings_class(method: str) -> type[TrainingSettings]:
    if method.startswith("bk-sdm"):
        return PrunedTraining
    if method.startswith("a-sdm"):
        return AssembledTraining
    return {"sun": SunTraining, **CLASSES}[method]


def updates(settings: TrainingSettings, steps: int = 4) -> list[int]:
    """Updates of the stages that a student goes through; of Guided-Distill's, the one for steps."""
    if isinstance(settings, AssembledTraining):
        return [settings.incubation_steps, settings.loop.steps]
    if isinstance(settings, GuidedTraining):
        teachers, way = settings.teachers(), [steps]
        while (before := teachers[way[0]]) is not None:
            way.insert(0, before)
        return [settings.loop.steps, *(settings.round_loop(n).steps for n in way)]
    return [settings.loop.steps]


def test_there_is_a_recipe_for_every_training():
    names = {file.stem for file in RECIPES.glob("*.toml")}
    assert names - {"guided-distill-finetune"} == set(trained_methods())


@pytest.mark.parametrize("method", TRAINED)
def test_every_trained_method_sees_as_many_images(method: str):
    settings = settings_for(method, settings_class(method), None, zoo=True)
    loop = settings.loop
    assert sum(updates(settings)) == UPDATES
    assert (loop.batch, loop.accumulate) == (BATCH, 1)
    assert loop.warmup + loop.decay * loop.steps <= loop.steps
    if isinstance(settings, AssembledTraining):
        assert settings.incubation_accumulate == 1


def test_guided_distills_students_go_ways_of_their_own():
    """The student for 4 steps has the whole budget behind it, the others less."""
    base = settings_for("guided-distill", GuidedTraining, None, zoo=True)
    assert updates(base, 4) == [300, 100, 200]
    assert max(sum(updates(base, steps)) for steps in base.rounds) == UPDATES
    again = settings_for(
        "guided-distill", GuidedTraining, RECIPES / "guided-distill-finetune.toml", zoo=True
    )
    assert again.loop.batch == BATCH
    ways = zip(accumulate(updates(again)), accumulate(updates(base)), strict=True)
    assert all(short < long for short, long in ways)
