"""A file where a command wants a folder, or the other way round: one line, exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PLACES = ("file", "file/inside", "n" * 300)
#: Commands that write a folder of their own; the last word is the place.
WRITERS = (
    ("baseline", "save", "RUN"),
    ("export", "RUN", "--to"),
    ("merge", "RUN", "RUN", "--out"),
    ("negatives", "--models", "MODEL", "--methods", "ddim", "--images", "2", "--out"),
    ("run", "--models", "MODEL", "--methods", "ddim", "--images", "2", "--out"),
)
#: What stands in the way in the run's own folder.
IN_THE_WAY = (
    ("tables", ("report", "RUN")),
    ("tables", ("compare", "RUN", "RUN")),
    ("figures", ("report", "RUN", "--figures")),
)


def typed(done: Any, words: tuple[str, ...]) -> list[str]:
    """The words of a command, with the run and the model of the lab."""
    names = {"RUN": str(done.out / "run"), "MODEL": str(done.world.card)}
    return [names.get(word, word) for word in words]


def one_line(answer: tuple[int, str]) -> str:
    """What was said, which must be one line and no surprise."""
    code, said = answer
    assert code == 2, said
    assert said.count("\n") == 1, said
    assert "unexpected" not in said
    return said


@pytest.mark.parametrize("place", PLACES, ids=["file", "below a file", "long"])
@pytest.mark.parametrize("words", WRITERS, ids=lambda words: words[0])
def test_a_folder_that_cannot_be(done: Any, typed_sunbench: Any, words: Any, place: str):
    (done.out / "file").write_text("mine")
    said = one_line(typed_sunbench(*typed(done, words), str(done.out / place)))
    assert str(done.out / place) in said
    assert (done.out / "file").read_text() == "mine"


@pytest.mark.parametrize(("name", "words"), IN_THE_WAY, ids=str)
def test_a_file_in_the_place_of_a_folder_of_the_run(
    done: Any, typed_sunbench: Any, name: str, words: Any
):
    folder = done.out / "run" / name
    if folder.is_dir():
        folder.rename(done.out / "aside")
    folder.write_text("mine")
    assert str(folder) in one_line(typed_sunbench(*typed(done, words)))
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "tables/results.md"])
def test_a_folder_in_the_place_of_a_file_of_the_run(done: Any, typed_sunbench: Any, name: str):
    file = done.out / "run" / name
    file.unlink(missing_ok=True)
    file.mkdir()
    said = one_line(typed_sunbench("report", str(done.out / "run"), "--html"))
    assert f"cannot write {file}: Is a directory" in said


@pytest.mark.parametrize("words", [("board", "RUN", "--nfe", "4", "--out")], ids=lambda w: w[0])
@pytest.mark.parametrize("place", ["folder", "file/board.md"])
def test_a_page_that_cannot_be(done: Any, typed_sunbench: Any, words: Any, place: str):
    (done.out / "file").write_text("mine")
    (done.out / "folder").mkdir()
    said = one_line(typed_sunbench(*typed(done, words), str(done.out / place)))
    assert "cannot write" in said
    assert str(Path(done.out / place).parent) in said
