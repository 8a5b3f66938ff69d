"""Putting a model's folder together from parts that are shipped once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sunbench import zoo
from sunbench.errors import UserError


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    for part in (*zoo.SHARED, "unet-one", "unet-two", "scorer"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(part)
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr(zoo, "weights", lambda: folder)
    monkeypatch.setattr(zoo, "names", lambda: ["one", "two"])
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "cache"))
    return folder


def test_models_share_all_but_their_unet(weights: Path):
    one, two = zoo.folder("one"), zoo.folder("two")
    assert (one.name, two.name) == ("one", "two")
    assert (one / "unet/config.json").read_text() == "unet-one"
    assert (two / "unet/config.json").read_text() == "unet-two"
    for part in zoo.SHARED:
        assert (one / part / "config.json").read_text() == part
    assert {p.name for p in one.iterdir()} == {*zoo.SHARED, "unet", "model_index.json"}


def test_the_folder_is_made_once_and_leaves_nothing_beside_it(weights: Path):
    first = zoo.folder("one")
    before = first.stat().st_mtime_ns
    assert zoo.folder("one") == first
    assert first.stat().st_mtime_ns == before
    assert [p.name for p in first.parent.iterdir()] == ["one"]


def test_a_rebuilt_zoo_gets_a_new_folder(weights: Path):
    first = zoo.folder("one")
    (weights / "unet-one/config.json").write_text("trained longer")
    second = zoo.folder("one")
    assert second != first
    assert (second / "unet/config.json").read_text() == "trained longer"


def _dangle(folder: Path) -> None:
    (folder / "vae/config.json").unlink()
    (folder / "vae/config.json").symlink_to(folder / "nowhere")


def _replace_by_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


def _replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model_index.json").unlink(),
        lambda folder: (folder / "model_index.json").write_text("{ }"),
        lambda folder: (folder / "unet/config.json").unlink(),
        lambda folder: shutil.rmtree(folder / "tokenizer"),
        lambda folder: [path.unlink() for path in (folder / "scheduler").iterdir()],
        lambda folder: shutil.copy(folder / "vae/config.json", folder / "vae/evil.py"),
        _dangle,
        _replace_by_link,
        _replace_by_file,
        shutil.rmtree,
    ],
)
def test_a_damaged_folder_is_healed(weights: Path, damage: Callable[[Path], object]):
    first = zoo.folder("one")
    contents = {p.relative_to(first): p.read_bytes() for p in first.rglob("*") if p.is_file()}
    damage(first)
    second = zoo.folder("one")
    assert second == first
    assert {p.relative_to(first): p.read_bytes() for p in first.rglob("*") if p.is_file()} == (
        contents
    )
    assert [p.name for p in first.parent.iterdir()] == ["one"]
    assert (weights / "model_index.json").read_text() == "{}"


def test_a_file_that_is_emptied_in_place_of_its_link_is_healed(weights: Path):
    folder = zoo.folder("one")
    (folder / "unet/config.json").unlink()
    (folder / "unet/config.json").write_text("")
    assert (zoo.folder("one") / "unet/config.json").read_text() == "unet-one"
    assert (weights / "unet-one/config.json").read_text() == "unet-one"


def test_a_cache_that_cannot_be_written_is_one_line(weights: Path, tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/zoo").write_text("a file")
    with pytest.raises(UserError, match="cannot be built"):
        zoo.folder("one")


def test_another_process_may_be_faster(weights: Path, monkeypatch: pytest.MonkeyPatch):
    real = zoo._assemble

    def twice(*args: object) -> None:
        real(*args)
        real(*args)

    monkeypatch.setattr(zoo, "_assemble", twice)
    folder = zoo.folder("one")
    assert (folder / "unet/config.json").read_text() == "unet-one"
    assert [p.name for p in folder.parent.iterdir()] == ["one"]


def test_scorer_is_given_as_it_is_shipped(weights: Path):
    assert zoo.folder("scorer") == weights / "scorer"


def test_names_are_those_of_the_unets(weights: Path):
    assert zoo.names() == ["one", "two"]


def test_unknown_model(weights: Path):
    with pytest.raises(UserError, match="unknown zoo model 'tow'; did you mean 'two'"):
        zoo.folder("tow")


def test_missing_part_says_how_it_is_made(weights: Path):
    (weights / "vae/config.json").unlink()
    (weights / "vae").rmdir()
    with pytest.raises(UserError, match=r"the zoo's vae is not installed; `sunbench zoo build`"):
        zoo.folder("one")


def test_systems_without_links_get_copies(weights: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(self: Path, target: Path) -> None:
        raise OSError("a required privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    file = zoo.folder("one") / "unet/config.json"
    assert file.read_text() == "unet-one"
    assert not file.is_symlink()
