"""Reference sets: recipes, building, listing, verifying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sunbench import reference_sets
from sunbench.bench import references
from sunbench.errors import UserError
from sunbench.models import cards
from sunbench.reference_sets import Recipe, recipe_for, recipes


def test_every_card_has_a_recipe_and_every_recipe_a_card():
    assert recipes().keys() == cards().keys()


def test_all_recipes_are_25_steps_of_dpm_solver_pp():
    assert {(r.method, r.steps) for r in recipes().values()} == {("dpm++", 25)}


def test_a_model_without_a_recipe_gets_the_papers_protocol():
    recipe = recipe_for("someone/model")
    assert recipe.model == "someone/model"
    assert (recipe.method, recipe.steps, recipe.seeds) == ("dpm++", 25, (0, 1, 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [("steps = 4", "no field 'model'"), ("model = 'x'\nstep = 4", "unknown field 'step'")],
)
def test_a_wrong_recipe_is_named(text: str, words: str):
    with pytest.raises(UserError, match=f"recipe file.toml: {words}"):
        reference_sets._read(text, "file.toml")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    short = lambda model: Recipe(model=model, steps=5, images=8)  # noqa: E731
    monkeypatch.setattr(references, "recipe_for", short)


def test_build_list_and_verify(lab: Any, short: None):
    """A card's absolute path once became the folder of the run."""
    card, before = lab.world.card, lab.world.card.read_text()
    settings: dict[str, Any] = {"prompts": str(lab.world.prompts), "batch": 4}
    assert references.build_reference(str(card), **settings).new_shards == 2
    assert references.build_reference(str(card), **settings).new_shards == 0
    assert card.read_text() == before
    (row,) = references.listing()
    assert (row["model"], row["role"], row["steps"]) == ("tiny", "reference", 5)
    assert (row["images"], row["shards"]) == (8, 2)
    assert references.verify() == (1, [])
    with pytest.raises(UserError, match="unknown model with a cached set 'other'"):
        references.verify(("other",))


def test_a_run_uses_the_set_that_was_built(lab: Any, short: None):
    settings: dict[str, Any] = {"prompts": str(lab.world.prompts), "batch": 4}
    references.build_reference(str(lab.world.card), **settings)
    outcome = lab.run(images=8, seeds=(0,), methods=("ddim",), steps=(1,), floor=False)
    assert outcome.new_shards == 2


def test_verify_finds_a_broken_shard(done: Any):
    next(Path(done.reference().folder).glob("shard-00001.parquet")).write_bytes(b"")
    checked, problems = references.verify()
    assert checked == 2
    assert problems == ["tiny · dpm++ · 5 steps: shard 1 is missing or broken"]


def test_the_floor_is_listed_as_such(done: Any):
    assert sorted(r["role"] for r in references.listing()) == ["floor", "reference"]
