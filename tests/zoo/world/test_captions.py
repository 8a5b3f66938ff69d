"""Captions leave choices open, and say what they leave open."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch

from sunbench.zoo.world.captions import (
    CLASS_WORDS,
    PLACES_OF_SIZE,
    Mention,
    Scene,
    colors,
    drawings,
    first_drawings,
    held_out_prompts,
    recipe,
    sample_captions,
    sample_mention,
    scenes,
    things,
)

SCENE = Scene(
    thing=[t.name for t in things()].index("apple"),
    size=0,
    place=1,
    color=[n for n, _ in colors()].index("teal"),
    pattern=1,
)
NOTHING = Mention(thing=False, size=False, place=False, color=False, pattern=False)


@pytest.mark.parametrize(
    ("mention", "text"),
    [
        (Mention(), "a small apple on the left of a teal striped background"),
        (NOTHING, "a fruit"),
        (replace(NOTHING, thing=True), "an apple"),
        (replace(NOTHING, place=True), "a fruit on the left"),
        (replace(NOTHING, color=True), "a fruit on a teal background"),
        (replace(NOTHING, pattern=True, size=True), "a small fruit on a striped background"),
    ],
)
def test_a_caption_says_what_it_names_and_nothing_else(mention: Mention, text: str) -> None:
    assert SCENE.caption(mention) == text


def test_the_article_follows_the_word_after_it() -> None:
    orange = replace(SCENE, color=[n for n, _ in colors()].index("orange"), size=2, place=0)
    assert orange.caption(replace(NOTHING, color=True)) == "a fruit on an orange background"


def test_the_style_stands_first() -> None:
    assert SCENE.caption(NOTHING, "noto") == "noto style, a fruit"


def test_every_group_word_stands_for_several_things() -> None:
    groups = Counter(thing.group for thing in things())
    assert all(groups[word] > 1 for word in CLASS_WORDS)


def test_drawings_are_indexed_by_thing() -> None:
    first, count = first_drawings()
    for i, thing in enumerate(things()):
        own = drawings()[first[i] : first[i] + count[i]]
        assert own == tuple((i, emoji) for emoji in thing.emojis)


def test_no_scene_is_both_trained_on_and_held_out() -> None:
    train, held_out = scenes()
    assert len(held_out) == recipe()["data"]["test_prompts"] == 10_000
    assert not set(train) & set(held_out)
    assert len({s.id for s in (*train, *held_out)}) == len(train) + len(held_out)


def test_held_out_prompts_are_distinct_and_of_all_levels() -> None:
    texts = [p.text for p in held_out_prompts()]
    assert len(set(texts)) == len(texts)
    assert len({p.id for p in held_out_prompts()}) == len(texts)
    named = Counter(
        sum(getattr(p.mention, f.name) for f in fields(Mention)) for p in held_out_prompts()
    )
    assert min(named[n] for n in (1, 2, 3, 4, 5)) > 100


@pytest.mark.parametrize("limit", [1, 64, 10**30])
def test_the_first_held_out_prompts_are_the_same_without_the_rest(limit: int) -> None:
    assert held_out_prompts(limit) == held_out_prompts()[:limit]


def test_only_small_subjects_have_places() -> None:
    assert all(s.place < PLACES_OF_SIZE[s.size] for pool in scenes() for s in pool)


def test_mentions_follow_the_recipe() -> None:
    g = torch.Generator().manual_seed(0)
    drawn = [sample_mention(SCENE, g) for _ in range(4000)]
    for name in ("thing", "size", "place", "color", "pattern"):
        share = sum(getattr(m, name) for m in drawn) / len(drawn)
        assert abs(share - recipe()["mentions"][name]) < 0.04, name


def test_captions_depend_on_the_generator_alone() -> None:
    rows, style = torch.tensor([SCENE.row] * 8), torch.zeros(8, dtype=torch.long)
    a = sample_captions(rows, style, torch.Generator().manual_seed(3))
    assert a == sample_captions(rows, style, torch.Generator().manual_seed(3))
    assert len(set(a)) > 1
