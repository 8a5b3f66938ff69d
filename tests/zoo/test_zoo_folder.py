"""Putting a model's folder together from parts that are shipped once."""

from __future__ import annotations

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
