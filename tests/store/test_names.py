"""Names as file names: readable, harmless, and never two names one file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunbench.store.names import LONGEST, file_stem, file_stems

TWINS = ("a b", "a-b", "A B", "a/b", "a  b", "a-b-", "a\nb", "aɓ", "aƀ", "a", "", "-", ".", "..")
#: Names that are close to one another, so that a rule that loses anything shows it.
NAMES = st.text(st.sampled_from("aAbB -_./\\:*\x00图\ud800"), max_size=6) | st.text(max_size=200)


def test_plain_names_are_kept():
    assert file_stem("emoji-3d") == "emoji-3d"
    assert file_stems(["images-tiny", "SD1.5", "my_model"]) == {
        "images-tiny": "images-tiny",
        "SD1.5": "SD1.5",
        "my_model": "my_model",
    }


def test_a_name_with_odd_characters_is_readable_while_it_is_alone():
    assert file_stems(["fd[zoo-clip]"]) == {"fd[zoo-clip]": "fd-zoo-clip"}
    assert re.fullmatch("fd-zoo-clip--[0-9a-f]{8}", file_stem("fd[zoo-clip]"))


def test_a_name_alone_and_among_others_is_one_where_nothing_meets_it():
    assert file_stems(["a b"])["a b"] == file_stems(["a b", "c"])["a b"] == "a-b"


def test_names_in_another_script_do_not_overwrite_each_other():
    names = ("images-図", "images-画", "images-")
    assert len({file_stem(n) for n in names}) == 3
    assert len(set(file_stems(names).values())) == 3


def test_twins_are_files_of_their_own(tmp_path: Path):
    for n, stem in enumerate(file_stems(TWINS).values()):
        (tmp_path / f"{stem}.png").write_text(str(n))
    assert len(list(tmp_path.iterdir())) == len(TWINS)


@given(st.lists(NAMES, max_size=8))
def test_different_names_never_share_a_file_even_where_case_is_lost(names: list[str]):
    different = set(names)
    for stems in ({n: file_stem(n) for n in different}, file_stems(different)):
        assert len({s.casefold() for s in stems.values()}) == len(different)


@given(NAMES)
def test_a_stem_is_a_harmless_file_name(name: str):
    for stem in (file_stem(name), file_stems([name])[name]):
        assert re.fullmatch(r"[A-Za-z0-9_+.-]+", stem)
        assert not stem.startswith(".")
        assert len(stem) <= LONGEST


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_names_changes_nothing(order: int):
    assert file_stems(TWINS[::order]) == file_stems(TWINS)
