"""Files of a run that cannot be read: one line that names them, no hang, nothing changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unreadable import refuse

DOCUMENTS = ("run.json", "results.json")
SHARD_FILES = ("cell.json", "shard-00000.json", "shard-00000.parquet", "shard-00000.embed")


def file_of(done: Any, name: str) -> Path:
    """A document of the run, or a file of a cell of it."""
    folder = done.out / "run" if name in DOCUMENTS else done.cell("ddim").folder
    return next(f for f in sorted(folder.iterdir()) if f.name.startswith(name))


def commands(done: Any, name: str) -> Iterator[list[str]]:
    """The commands that read a file of a run."""
    run = str(done.out / "run")
    yield ["verify", run]
    yield ["baseline", "save", run, str(done.out / "baseline")]
    if name in DOCUMENTS:
        yield ["report", run, "--figures"]
        yield ["compare", run, run]
        yield ["merge", run, run, "--out", str(done.out / "merged")]
    if name == "run.json":
        yield ["export", run, "--to", str(done.out / "copy")]
    if name == "results.json":
        yield ["pick", run]


@pytest.mark.parametrize("name", [*DOCUMENTS, *SHARD_FILES])
def test_no_permission(done: Any, typed_sunbench: Any, monkeypatch: pytest.MonkeyPatch, name: str):
    file = file_of(done, name)
    refuse(monkeypatch, file)
    for words in commands(done, name):
        code, said = typed_sunbench(*words)
        assert code == (1 if words[0] == "verify" and name not in DOCUMENTS else 2), said
        assert f"cannot read {file}: Permission denied" in said
        assert said.count("\n") == 1
    assert file.is_file()


@pytest.mark.parametrize("place", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", [*DOCUMENTS, "cell.json", "shard-00000.json"])
def test_no_file_in_the_place_of_one(
    done: Any, typed_sunbench: Any, name: str, place: Callable[[Path], None]
):
    file = file_of(done, name)
    file.unlink()
    place(file)
    for words in commands(done, name):
        code, said = typed_sunbench(*words)
        assert code == (1 if words[0] == "verify" and name not in DOCUMENTS else 2), said
        assert file.name in said or "shard 0 is missing or broken" in said
        assert said.count("\n") == 1
    assert file.exists()
