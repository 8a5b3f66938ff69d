"""Captions and tokens of the zoo."""

from __future__ import annotations

import hashlib
import re

import pytest

from sunbench import prompts, zoo
from sunbench.zoo.data import GROUNDS, PLACED, PLACES, SIZES, Scene, colours, scenes, things
from sunbench.zoo.text import build_tokenizer, style_words, vocabulary

#: sha256 of the held-out ids, one a line: another list is another experiment.
HELD_OUT = "81b27cadeda2313adf87e3f28addb7639c07f8dd81980df1bf7a790de11a7b31"


def test_ten_thousand_held_out_captions_and_no_leak():
    train, test = scenes()
    assert len(test) == 10_000
    assert len(train) + len(test) == len(things()) * sum(PLACED) * len(colours()) * len(GROUNDS)
    assert not {s.caption for s in train} & {s.caption for s in test}


def test_every_caption_and_id_is_one_scenes_own():
    every = [s for part in scenes() for s in part]
    assert len({s.caption for s in every}) == len({s.id for s in every}) == len(every)


def test_held_out_list_has_not_changed():
    ids = "\n".join(s.id for s in scenes()[1])
    assert hashlib.sha256(ids.encode()).hexdigest() == HELD_OUT


def test_id_is_of_the_caption_with_articles_by_letter():
    for scene in scenes()[1][:50]:
        words = scene.caption.replace("a unicorn", "an unicorn")
        assert scene.id == hashlib.sha256(words.encode()).hexdigest()[:12]


def test_the_prompt_set_zoo_is_the_held_out_list():
    rows = prompts.load("zoo", limit=10_000).rows
    assert [(r.id, r.text) for r in rows] == [(s.id, s.caption) for s in scenes()[1]]


def test_held_out_captions_cover_every_thing_colour_ground_size_and_place():
    test = scenes()[1]
    for name, count in (
        ("thing", len(things())),
        ("size", len(SIZES)),
        ("colour", len(colours())),
        ("ground", len(GROUNDS)),
        ("place", len(PLACES)),
    ):
        assert {getattr(s, name) for s in test} == set(range(count))


# ------------------------------------------------------------------------------ grammar


def scene(thing: str, size: str, colour: str, ground: str, place: str = "centre") -> Scene:
    lists = [n for n, _, _ in things()], SIZES, [n for n, _ in colours()], GROUNDS, PLACES
    words = thing, size, colour, ground, place
    return Scene(*(names.index(word) for names, word in zip(lists, words, strict=True)))


@pytest.mark.parametrize(
    ("words", "caption"),
    [
        (("apple", "medium", "teal", "plain"), "an apple on a teal background"),
        (("apple", "small", "orange", "striped"), "a small apple on an orange striped background"),
        (("dog", "large", "red", "dotted"), "a large dog on a red dotted background"),
        (("octopus", "medium", "orange", "plain"), "an octopus on an orange background"),
        (
            ("bus", "small", "gray", "checked", "left"),
            "a small bus on the left of a gray checked background",
        ),
        (
            ("bus", "small", "orange", "plain", "top"),
            "a small bus at the top of an orange background",
        ),
    ],
)
def test_captions(words: tuple[str, ...], caption: str):
    assert scene(*words).caption == caption


def test_articles_follow_the_next_sound():
    every = [s.caption for part in scenes() for s in part]
    wrong = re.compile(r"\ba (?!unicorn)[aeiou]|\ban [^aeiou]|an unicorn")
    assert [c for c in every if wrong.search(c)] == []


def test_captions_are_plain_words():
    words = re.compile(r"[a-z]+( [a-z]+)*")
    every = [s.caption for part in scenes() for s in part]
    assert all(words.fullmatch(c) for c in every)


def test_every_thing_has_a_name_an_emoji_and_a_group():
    assert all(all(row) for row in things())
    assert len({n for n, _, _ in things()}) == len({e for _, e, _ in things()}) == len(things())


# ------------------------------------------------------------------------------ tokens


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_word_is_one_token(tokenizer):
    """All but "3d": CLIP's own rule splits digits from letters."""
    many = [w for w in vocabulary() if len(tokenizer(w).input_ids) != 3]
    assert many == ["3d"]


def test_words_are_told_apart(tokenizer):
    ids = [tuple(tokenizer(w).input_ids) for w in vocabulary()]
    assert len(set(ids)) == len(ids)


def test_captions_fit_and_come_back(tokenizer):
    captions = [s.caption for s in scenes()[1]]
    ids = tokenizer(captions).input_ids
    assert tokenizer.model_max_length == 24
    assert max(len(i) for i in ids) <= 24
    assert tokenizer.batch_decode(ids[:200], skip_special_tokens=True) == captions[:200]


def test_unknown_words_fall_apart_into_letters_not_into_nothing(tokenizer):
    ids = tokenizer("zyx").input_ids
    assert len(ids) > 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "zyx"


def test_style_words_are_in_the_vocabulary():
    assert set(style_words()) - {""} <= set(vocabulary())
    assert vocabulary() == sorted(set(vocabulary()))


@pytest.mark.skipif(not zoo.weights().is_dir(), reason="the zoo's weights are not here")
def test_the_shipped_tokenizer_is_the_one_the_captions_make(tokenizer):
    from transformers import CLIPTokenizer

    from sunbench.zoo import weights

    shipped = CLIPTokenizer.from_pretrained(weights() / "tokenizer", local_files_only=True)
    captions = [s.caption for s in scenes()[1][:500]]
    assert shipped(captions).input_ids == tokenizer(captions).input_ids
