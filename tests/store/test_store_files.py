"""Files: keys, atomic writes, room on the disk, and a disk that fills up."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unreadable import refuse

from sunbench.errors import UnreadableFile, UserError
from sunbench.store import CellStore, ShardRow, ensure_space, key, sha256_file, write_atomic
from sunbench.store import files as store_files
from sunbench.store import rows as store_rows

READERS: list[Any] = [
    store_files.read_file,
    store_files.read_toml,
    sha256_file,
    lambda path: store_files.read_versioned(path, 1, "`sunbench run`"),
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_key_does_not_see_the_order_of_names(content: dict[str, Any]) -> None:
    backwards = dict(reversed(content.items()))
    assert key(content) == key(backwards)
    assert len(key(content)) == 20
    assert key(content) != key({**content, "one more": 1, "and one": [content]})


def test_key_is_golden_and_sees_values() -> None:
    assert (
        key({"b": 1, "a": [1.5, None]})
        == hashlib.sha256(b'{"a":[1.5,null],"b":1}').hexdigest()[:20]
    )
    assert len({key(v) for v in (1, 1.5, "1", [1], {"1": 1}, None, True)}) == 7
    with pytest.raises(ValueError, match="not JSON compliant"):
        key(float("nan"))


def test_sha256_of_a_file_longer_than_a_piece(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("place", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, read: Callable[[Path], object], place: Callable[[Path], None]
) -> None:
    place(tmp_path / "x")
    with pytest.raises(UserError, match=r"cannot read .*x: given a (folder|FIFO)"):
        read(tmp_path / "x")


@pytest.mark.parametrize("read", READERS)
def test_a_file_without_permission_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    (tmp_path / "x").write_bytes(b"1")
    refuse(monkeypatch, tmp_path / "x")
    with pytest.raises(UnreadableFile, match=r"cannot read .*x: Permission denied"):
        read(tmp_path / "x")


@pytest.mark.parametrize("name", ["x", "file/x"])
@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_one_line(
    tmp_path: Path, read: Callable[[Path], object], name: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"x(: No such file|: Not a directory| is missing)"):
        read(tmp_path / name)


def test_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    write_atomic(file, b"old")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="input/output error"):
        write_atomic(file, b"new")
    assert [f.name for f in tmp_path.iterdir()] == ["x"]
    assert file.read_bytes() == b"old"


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


ROWS = [ShardRow(i, "p", i, "a dog", "", "h", np.full((4, 4, 3), i, np.uint8)) for i in range(2)]
FEATURES = {"f": np.zeros((2, 3))}


@pytest.mark.parametrize("place", ["parquet", "flush", "rename"])
def test_disk_full_is_one_line_and_the_store_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    store = CellStore(tmp_path / "c", {"a": 1})
    store.write_shard(0, ROWS, FEATURES)
    with monkeypatch.context() as patch:
        if place == "parquet":
            patch.setattr(store_rows, "write_rows", _write_some_then_full)
        else:
            patch.setattr(os, "fsync" if place == "flush" else "replace", _full)
        with pytest.raises(UserError) as caught:
            store.write_shard(1, ROWS, FEATURES)
    message = str(caught.value)
    assert "disk full while writing" in message
    assert "needed" in message
    assert "free" in message
    assert "\n" not in message
    assert not list(store.folder.glob(".*"))
    assert store.shards() == [0]
    assert CellStore.open(store.folder).has_shard(0)
    store.write_shard(1, ROWS, FEATURES)
    assert store.has_shard(1)


def _write_some_then_full(file: BinaryIO, _: object) -> None:
    file.write(b"PAR1")
    _full()


def test_disk_full_while_adding_features_keeps_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CellStore(tmp_path / "c", {"a": 1})
    store.write_shard(0, ROWS, FEATURES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _full)
        with pytest.raises(UserError, match="disk full"):
            store.add_features(0, "g", np.zeros(2))
    again = CellStore.open(store.folder)
    assert again.has_shard(0)
    assert again.feature_names(0) == ["f"]


def test_room_is_asked_for_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_space(tmp_path / "deep" / "run", 1000)
    assert not list((tmp_path / "deep" / "run").iterdir())
    monkeypatch.setattr(store_files, "free_bytes", lambda _: 4_000_000_000)
    with pytest.raises(UserError, match=r"12\.3 GB needed, 4 GB free"):
        ensure_space(tmp_path, 12_300_000_000)


def test_real_disks_have_an_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not enough room"):
        ensure_space(tmp_path, 10**18)


def test_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot write"):
            ensure_space(folder, 1)
        with pytest.raises(UserError, match="cannot write"):
            CellStore(folder, {"a": 1})


def test_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store_files.tempfile, "NamedTemporaryFile", refused)
    with pytest.raises(UserError, match=r"cannot write .*: Permission denied"):
        ensure_space(tmp_path, 1)


# ------------------------------------------------------------------------------ part files


def part(folder: Path, writer: str, host: str | None = None, age_s: float = 0.0) -> Path:
    """What a writer of a shard leaves when it is killed."""
    name = f".shard-00000.parquet.{host or socket.gethostname()}.{writer}.part"
    (folder / name).write_bytes(b"PAR1")
    then = time.time() - age_s
    os.utime(folder / name, (then, then))
    return folder / name


def test_parts_of_dead_writers_go_and_others_stay_for_a_day(tmp_path: Path) -> None:
    """Of another host it cannot be known whether it writes still, so its clock decides."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    day = 86_400
    stay = [
        part(tmp_path, f"{os.getpid()}-1"),
        part(tmp_path, f"{ended.pid}-1", "another-host", day - 60),
        part(tmp_path, "nonsense"),
        tmp_path / "shard-00000.parquet",
    ]
    stay[-1].write_bytes(b"PAR1")
    part(tmp_path, f"{ended.pid}-1")
    part(tmp_path, f"{ended.pid}-2", "another-host", day + 60)
    part(tmp_path, "more nonsense", age_s=day + 60)
    store_files.remove_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(stay)


def test_a_part_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = part(tmp_path, "1-1", "another-host")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone]))
    gone.unlink()
    store_files.remove_parts(tmp_path)


def test_writers_of_one_file_have_parts_of_their_own(tmp_path: Path) -> None:
    """Threads and processes alike, so that none takes away what another writes."""
    parts = [store_files.part_of(tmp_path / "x")]
    thread = threading.Thread(target=lambda: parts.append(store_files.part_of(tmp_path / "x")))
    thread.start()
    thread.join()
    code = (
        "import sys; from pathlib import Path; from sunbench.store.files import part_of;"
        "print(part_of(Path(sys.argv[1])))"
    )
    other = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "x")], text=True)
    assert len({*parts, Path(other.strip())}) == 3
