"""Sampled negative prompts: from the row alone, never against the row."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sunbench.prompts import load, phrases
from sunbench.prompts.negatives import content_words, real_vocabulary, sample, zoo_vocabulary
from sunbench.prompts.rows import text_id
from sunbench.zoo.data import GROUNDS, PLACES, SIZES, Scene, colours, scenes, things

GOLDEN = (
    "retro, fused legs, video game graphics, stained, two faces, clipping, power lines, "
    "photo manipulation, oversized head, film grain"
)


def test_832_distinct_lower_case_phrases() -> None:
    assert len(phrases()) == 832 == len(set(phrases()))
    assert all(p == p.strip().lower() and p and "," not in p for p in phrases())
    assert all(content_words(p) for p in phrases())


def test_zoo_vocabulary_speaks_the_captions_language() -> None:
    things_, colours_, grounds, sizes, places, styles = zoo_vocabulary().kinds
    assert len(things_) == len(things())
    assert len(colours_) == len(colours())
    assert grounds == ("striped background", "dotted background", "checked background")
    assert sizes == ("small", "large")
    assert places == ("on the left", "on the right", "at the top", "at the bottom")
    assert all(s.endswith(" style") for s in styles)


def _forbidden(scene: Scene) -> set[str]:
    """Words that the scene itself shows."""
    words = {colours()[scene.colour][0], GROUNDS[scene.ground], SIZES[scene.size]}
    words.add(PLACES[scene.place])
    return words | set(things()[scene.thing][0].split())


def test_zoo_negatives_never_contradict_their_row() -> None:
    rows = load("zoo", negatives="sampled").rows
    for scene, row in zip(scenes()[1], rows, strict=True):
        chosen = row.negative.split(", ")
        assert row.id == scene.id
        assert 1 <= len(chosen) <= 4
        assert len(set(chosen)) == len(chosen)
        assert not _forbidden(scene) & set(row.negative.replace(",", "").split())


def test_zoo_negatives_name_every_kind_often() -> None:
    rows = load("zoo", negatives="sampled").rows
    kind_of = {p: k for k, kind in enumerate(zoo_vocabulary().kinds) for p in kind}
    counts = Counter(kind_of[p] for r in rows for p in r.negative.split(", "))
    assert min(counts[k] for k in range(6)) > 2000
    assert Counter(len(r.negative.split(", ")) for r in rows).most_common()[-1][1] > 2300


def test_negatives_are_the_same_in_any_subset() -> None:
    rows = load("zoo", negatives="sampled").rows
    assert load("zoo", negatives="sampled", limit=7).rows == rows[:7]


def test_golden_negative() -> None:
    """The stream may not change between versions: keys and stored images depend on it."""
    assert sample("0", "a dog", real_vocabulary()) == GOLDEN


@settings(deadline=None)
@given(st.text(max_size=40))
def test_real_negatives_share_no_word_with_the_prompt(text: str) -> None:
    negative = sample(text_id(text), text, real_vocabulary())
    chosen = negative.split(", ")
    assert 1 <= len(chosen) <= 25
    assert set(chosen) <= set(phrases())
    assert not content_words(negative) & content_words(text)


def test_a_prompt_that_names_everything_gets_fewer_phrases() -> None:
    assert sample("0", " ".join(phrases()), real_vocabulary()) == ""
