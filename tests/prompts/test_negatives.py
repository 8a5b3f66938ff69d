"""Sampled negative prompts: from the row alone, never against the row."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sunbench.prompts import load, phrases
from sunbench.prompts.negatives import (
    content_words,
    real_vocabulary,
    sample_negative,
    zoo_vocabulary,
)
from sunbench.prompts.rows import text_id
from sunbench.zoo.world.captions import (
    PATTERNS,
    PLACE_PHRASES,
    SIZES,
    colors,
    held_out_prompts,
    things,
)

GOLDEN = (
    "retro, fused legs, video game graphics, stained, two faces, clipping, power lines, "
    "photo manipulation, oversized head, film grain"
)


def test_832_distinct_lower_case_phrases() -> None:
    assert len(phrases()) == 832 == len(set(phrases()))
    assert all(p == p.strip().lower() and p and "," not in p for p in phrases())
    assert all(content_words(p) for p in phrases())


def test_zoo_vocabulary_speaks_the_captions_language() -> None:
    things_, colors_, patterns, sizes, places, styles = zoo_vocabulary().kinds
    assert len(things_) == len(things())
    assert len(colors_) == len(colors())
    assert patterns == tuple(f"{p} background" for p in PATTERNS)
    assert sizes == SIZES
    assert places == PLACE_PHRASES
    assert all(s.endswith(" style") for s in styles)


def test_zoo_negatives_never_contradict_their_row() -> None:
    rows = load("zoo", negatives="sampled").rows
    for prompt, row in zip(held_out_prompts(), rows, strict=True):
        chosen = row.negative.split(", ")
        assert row.id == prompt.id
        assert 1 <= len(chosen) <= 4
        assert len(set(chosen)) == len(chosen)
        assert not content_words(prompt.text) & content_words(row.negative)


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
    assert sample_negative("0", "a dog", real_vocabulary()) == GOLDEN


@settings(deadline=None)
@given(st.text(max_size=40))
def test_real_negatives_share_no_word_with_the_prompt(text: str) -> None:
    negative = sample_negative(text_id(text), text, real_vocabulary())
    chosen = negative.split(", ")
    assert 1 <= len(chosen) <= 25
    assert set(chosen) <= set(phrases())
    assert not content_words(negative) & content_words(text)


def test_a_prompt_that_names_everything_gets_fewer_phrases() -> None:
    assert sample_negative("0", " ".join(phrases()), real_vocabulary()) == ""
