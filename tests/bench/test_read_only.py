"""A run on a read-only mount: what reads it works, what writes into it says so in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from read_only import read_only

from sunbench.bench.verify import verify_run
from sunbench.store import write_atomic


def contents(root: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def test_the_mount_is_read_only(tmp_path: Path):
    with read_only(tmp_path), pytest.raises(OSError, match="Read-only file system"):
        (tmp_path / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for change in (Path.unlink, Path.touch, lambda f: f.rename(f.with_name("other"))):
        with read_only(tmp_path), pytest.raises(OSError, match="Read-only file system"):
            change(tmp_path / "file")
    assert contents(tmp_path) == {tmp_path / "file": b"mine"}


def test_verify_only_reads(done: Any, typed_sunbench: Any):
    """A broken shard and cell file too: they are named, not moved aside."""
    with read_only(done.cache.parent):
        assert verify_run(done.out / "run") == (4, [])
    one = done.cell("ddim").folder
    write_atomic(one / "shard-00001.parquet", b"broken")
    write_atomic(done.reference().folder / "cell.json", b"{")
    before = contents(done.cache.parent)
    with read_only(done.cache.parent):
        code, said = typed_sunbench("verify", str(done.out / "run"))
    assert code == 1, said
    assert "shard 1 is missing or broken" in said
    assert "cell.json is broken or cut short" in said
    assert "Traceback" not in said
    assert contents(done.cache.parent) == before


@pytest.mark.parametrize(
    "words",
    [
        ("report", "RUN"),
        ("report", "RUN", "--html"),
        ("compare", "RUN", "RUN"),
        ("baseline", "save", "RUN", "RUN/saved"),
        ("run", "--models", "MODEL", "--methods", "ddim", "--images", "4", "--out", "RUN"),
        ("verify", "RUN", "--repair"),
    ],
    ids=" ".join,
)
def test_what_writes_says_so_in_one_line(done: Any, typed_sunbench: Any, words: tuple[str, ...]):
    if words[0] in ("run", "verify"):  # there is something to mend
        (done.cell("ddim").folder / "shard-00001.json").unlink()
    names = {"RUN": str(done.out / "run"), "MODEL": str(done.world.card)}
    names["RUN/saved"] = str(done.out / "run/saved")
    with read_only(done.cache.parent):
        code, said = typed_sunbench(*(names.get(word, word) for word in words))
    assert code == 2, said
    assert said.count("\n") == 1, said
    assert "Read-only file system" in said
    assert "unexpected" not in said
