"""Cells and shards: whole or absent, checked, named when broken, only that one sampled again."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from unreadable import refuse

import sunbench
from sunbench.errors import UnreadableFile, UserError
from sunbench.store import CellStore, ShardRow, key

CONTENT = {"model": "emoji", "steps": 4, "seeds": [0, 1]}
ROWS = 3


def rows_of(index: int, images: bool = True) -> list[ShardRow]:
    """Rows of shard ``index``, the same for the same index."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)
    first = index * ROWS
    return [
        ShardRow(
            first + i, f"p{i}", 0, "a dog", "ugly", f"h{i}", pixels[i] if images else None, i == 1
        )
        for i in range(ROWS)
    ]


def features_of(index: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1000 + index)
    return {
        "zoo-clip": rng.standard_normal((ROWS, 4), dtype=np.float32),
        "perceptual[zoo-clip]": rng.standard_normal(ROWS),
    }


def cell(folder: Path, shards: int = 3) -> CellStore:
    """A cell with so many shards."""
    store = CellStore(folder, CONTENT)
    for index in range(shards):
        store.write_shard(index, rows_of(index), features_of(index))
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if not f.name.endswith(".broken")}


def same_images(rows: list[ShardRow], expected: list[ShardRow]) -> bool:
    pairs = zip(rows, expected, strict=True)
    return all(np.array_equal(a.image, b.image) for a, b in pairs)  # type: ignore[arg-type]


def test_rows_pixels_and_features_come_back_to_the_bit(tmp_path: Path) -> None:
    cell(tmp_path / "c")
    store = CellStore.open(tmp_path / "c")
    assert store.content == CONTENT
    assert store.shards() == [0, 1, 2]
    for index in store.shards():
        assert store.has_shard(index)
        assert store.read_rows(index) == rows_of(index)
        assert all(r.image is None for r in store.read_rows(index))
        assert same_images(store.read_rows(index, images=True), rows_of(index))
        for name, array in features_of(index).items():
            stored = store.read_features(index, name)
            assert stored is not None
            assert stored.dtype == array.dtype
            assert np.array_equal(stored, array)
        assert store.read_features(index, "inception") is None


def test_datasets_opens_the_pictures(tmp_path: Path) -> None:
    store = cell(tmp_path / "c", 2)
    files = [str(f) for f in sorted(store.folder.glob("*.parquet"))]
    data = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(data.features["image"], datasets.Image)
    expected = [*rows_of(0), *rows_of(1)]
    assert data["index"][:] == [r.index for r in expected]
    assert data["black"][:] == [r.black for r in expected]
    for record, row in zip(data, expected, strict=True):
        assert np.array_equal(np.asarray(record["image"]), row.image)


def test_datasets_opens_shards_without_pictures(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "c", CONTENT)
    store.write_shard(0, rows_of(0, images=False), {})
    assert store.read_rows(0, images=True) == rows_of(0)
    assert all(r.image is None for r in store.read_rows(0, images=True))
    file = str(store.folder / "shard-00000.parquet")
    data = datasets.load_dataset(
        "parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [r["image"] for r in data] == [None] * ROWS


def test_features_are_added_and_replaced(tmp_path: Path) -> None:
    store = cell(tmp_path / "c", 1)
    for value in (1.0, 2.0):
        store.add_features(0, "open-clip/ViT-g-14/x", np.full((ROWS, 2), value))
        stored = CellStore.open(store.folder).read_features(0, "open-clip/ViT-g-14/x")
        assert stored is not None
        assert np.array_equal(stored, np.full((ROWS, 2), value))
    assert store.feature_names(0) == ["open-clip/ViT-g-14/x", "perceptual[zoo-clip]", "zoo-clip"]
    with pytest.raises(ValueError, match=r"expected \(3, \.\.\.\)"):
        store.add_features(0, "short", np.zeros(2))


def test_names_that_look_alike_as_files_stay_apart(tmp_path: Path) -> None:
    store = cell(tmp_path / "c", 1)
    for value, name in enumerate(["a/b", "a[b", "a-b", "A-b"]):
        store.add_features(0, name, np.full(ROWS, value))
    stored = [store.read_features(0, n) for n in ("a/b", "a[b", "a-b", "A-b")]
    assert [f[0] for f in stored if f is not None] == [0, 1, 2, 3]


def test_another_cell_in_the_folder_is_refused(tmp_path: Path) -> None:
    cell(tmp_path / "c", 1)
    with pytest.raises(UserError, match="they differ in seeds, steps"):
        CellStore(tmp_path / "c", CONTENT | {"steps": 2, "seeds": [0]})


def test_folder_without_a_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cell\.json is missing"):
        CellStore.open(tmp_path)


@pytest.mark.parametrize("name", ["shard-00001.parquet", "shard-00001.zoo-clip.safetensors"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_only_the_broken_shard_is_sampled_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    store = cell(tmp_path / "c")
    before = contents(store.folder)
    file = store.folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data if how == "flip" else data[:-9])
    with caplog.at_level(logging.WARNING):
        assert [store.has_shard(i) for i in range(3)] == [True, False, True]
    assert name in caplog.text
    assert (store.folder / f"{name}.broken").exists() == (how != "gone")
    with pytest.raises(UserError, match="shard 1 is missing or broken"):
        store.read_rows(1)
    assert store.shards() == [0, 2]
    store.write_shard(1, rows_of(1), features_of(1))
    assert contents(store.folder) == before


def dangle(file: Path) -> None:
    file.symlink_to(file.with_name("nowhere"))


@pytest.mark.parametrize("place", [Path.mkdir, os.mkfifo, dangle])
@pytest.mark.parametrize("name", ["shard-00001.parquet", "feature"])
def test_what_is_no_file_in_the_place_of_one_is_sampled_again(
    tmp_path: Path, name: str, place: Callable[[Path], None]
) -> None:
    store = cell(tmp_path / "c", 2)
    before = contents(store.folder)
    if name == "feature":
        name = next(iter(store.manifest(1)["features"].values()))["file"]
    (store.folder / name).unlink()
    place(store.folder / name)
    assert not CellStore(store.folder, CONTENT, repair=False).has_shard(1)
    again = CellStore(store.folder, CONTENT)
    assert [again.has_shard(i) for i in range(2)] == [True, False]
    again.write_shard(1, rows_of(1), features_of(1))
    assert contents(store.folder) == before


@pytest.mark.parametrize("place", [Path.mkdir, os.mkfifo, dangle])
def test_a_cell_file_that_is_no_file_is_written_again(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    store = cell(tmp_path / "c", 1)
    before = contents(store.folder)
    (store.folder / "cell.json").unlink()
    place(store.folder / "cell.json")
    with pytest.raises(UserError, match=r"cell\.json"):
        CellStore(store.folder, CONTENT, repair=False)
    assert CellStore(store.folder, CONTENT).has_shard(0)
    assert contents(store.folder) == before


@pytest.mark.parametrize("place", [Path.mkdir, os.mkfifo, dangle])
def test_a_manifest_that_is_no_file_counts_as_missing(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    store = cell(tmp_path / "c", 2)
    before = contents(store.folder)
    manifest = store.folder / "shard-00001.json"
    manifest.unlink()
    place(manifest)
    assert not CellStore(store.folder, CONTENT, repair=False).has_shard(1)
    again = CellStore(store.folder, CONTENT)
    assert [again.has_shard(i) for i in range(2)] == [True, False]
    again.write_shard(1, rows_of(1), features_of(1))
    assert contents(store.folder) == before


@pytest.mark.parametrize(
    "name", ["cell.json", "shard-00000.json", "shard-00000.parquet", "shard-00000.zoo-clip"]
)
@pytest.mark.parametrize("repair", [False, True])
def test_a_file_without_permission_is_one_line_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, repair: bool
) -> None:
    """Another user's file is not moved aside: its shard is whole."""
    folder = cell(tmp_path / "c", 1).folder
    file = next(f for f in folder.iterdir() if f.name.startswith(name))
    before = contents(folder)
    with monkeypatch.context() as patch:
        refuse(patch, file)
        with pytest.raises(UnreadableFile, match=f"cannot read .*{name}.*: Permission denied"):
            CellStore(folder, CONTENT, repair=repair).read_rows(0)
    assert contents(folder) == before


def test_a_file_that_lost_its_permission_after_the_check_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cell(tmp_path / "c", 1)
    for name, read in (("parquet", store.read_rows), ("zoo-clip.s", features(store))):
        file = next(store.folder.glob(f"shard-00000.{name}*"))
        with monkeypatch.context() as patch:
            refuse(patch, file)
            with pytest.raises(UserError, match="Permission denied"):
                read(0)


def features(store: CellStore) -> Callable[[int], object]:
    return lambda index: store.read_features(index, "zoo-clip")


@pytest.mark.parametrize("change", [b"", b"{", b"[]", b'{"check": "0"}'])
def test_broken_manifest_counts_as_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: bytes
) -> None:
    store = cell(tmp_path / "c", 2)
    manifest = store.folder / "shard-00000.json"
    manifest.write_bytes(change)
    assert not store.has_shard(0)
    assert store.has_shard(1)
    assert "shard-00000.json" in caplog.text
    assert manifest.with_name("shard-00000.json.broken").exists()


def test_manifest_of_another_cell_is_not_used(tmp_path: Path) -> None:
    one = cell(tmp_path / "one", 1)
    two = CellStore(tmp_path / "two", CONTENT | {"steps": 2})
    for file in one.folder.glob("shard-*"):
        (two.folder / file.name).write_bytes(file.read_bytes())
    assert not two.has_shard(0)


def test_broken_cell_file_is_written_again_and_keeps_its_shards(tmp_path: Path) -> None:
    store = cell(tmp_path / "c", 1)
    (store.folder / "cell.json").write_bytes(b'{"schema')
    again = CellStore(store.folder, CONTENT)
    assert again.has_shard(0)
    assert json.loads((store.folder / "cell.json").read_bytes())["key"] == again.key
    assert (store.folder / "cell.json.broken").exists()


@pytest.mark.parametrize("edit", ["key", "content", "both", "schema_version"])
def test_an_edited_cell_file_heals_where_the_folder_says_whose_it_is(
    tmp_path: Path, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = cell(tmp_path / key(CONTENT), 2)
    file = store.folder / "cell.json"
    before = contents(store.folder)
    document = json.loads(file.read_bytes())
    other = CONTENT | {"steps": 2}
    if edit in ("content", "both"):
        document["content"] = other
    if edit in ("key", "both"):
        document["key"] = key(other)
    if edit == "schema_version":
        document["schema_version"] = 99
    file.write_text(json.dumps(document))
    with pytest.raises(UserError):
        CellStore(store.folder, CONTENT, repair=False)
    again = CellStore(store.folder, CONTENT)
    assert [again.has_shard(i) for i in range(2)] == [True, True]
    assert contents(store.folder) == before
    assert "cell.json" in caplog.text


def test_an_edited_cell_file_is_refused_where_the_folder_does_not_say(tmp_path: Path) -> None:
    store = cell(tmp_path / "c", 1)
    document = json.loads((store.folder / "cell.json").read_bytes())
    document["content"]["steps"] = 2
    (store.folder / "cell.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="they differ in steps"):
        CellStore(store.folder, CONTENT)


def test_rows_must_be_a_run(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "c", CONTENT)
    with pytest.raises(ValueError, match="expected numbers at one distance"):
        store.write_shard(0, [rows_of(0)[0], *rows_of(1)], {})
    with pytest.raises(ValueError, match="given 0 rows"):
        store.write_shard(0, [], {})
    with pytest.raises(ValueError, match="feature 'x'"):
        store.write_shard(0, rows_of(0), {"x": np.zeros(ROWS + 1)})
    assert store.shards() == []


def test_lossy_pictures_in_a_shard_are_refused(tmp_path: Path) -> None:
    """A shard whose PNG bytes were swapped for JPEG, with every checksum made right again."""
    import io

    from PIL import Image

    from sunbench.store.files import sha256_file
    from sunbench.store.manifest import seal

    store = cell(tmp_path / "c", 1)
    file = store.folder / "shard-00000.parquet"
    manifest = store.manifest(0)
    table = pq.read_table(file)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    image = [{"bytes": buffer.getvalue(), "path": "0.jpg"}] * ROWS
    column = table.schema.get_field_index("image")
    pq.write_table(table.set_column(column, table.schema.field("image"), [image]), file)
    manifest["images"] |= {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    (store.folder / "shard-00000.json").write_bytes(seal(manifest, store.key, 0))
    store = CellStore.open(store.folder)
    assert store.read_rows(0) == rows_of(0)
    with pytest.raises(UserError, match="image 0: given a lossy JPEG image"):
        store.read_rows(0, images=True)


def test_shards_are_written_from_threads(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "c", CONTENT)

    def write(index: int) -> None:
        store.write_shard(index, rows_of(index), features_of(index))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_images(store.read_rows(i, images=True), rows_of(i)) for i in range(6))
    assert contents(store.folder) == contents(cell(tmp_path / "one by one", 6).folder)


# ------------------------------------------------------------------------------ kill -9

WRITER = """
import sys
from pathlib import Path
import numpy as np
from sunbench.store import CellStore, ShardRow
store = CellStore(Path(sys.argv[1]), {"model": "emoji", "steps": 4, "seeds": [0, 1]})
for index in range(400):
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    rng = np.random.default_rng(1000 + index)
    features = {"zoo-clip": rng.standard_normal((3, 4), dtype=np.float32),
                "perceptual[zoo-clip]": rng.standard_normal(3)}
    rows = [ShardRow(index * 3 + i, f"p{i}", 0, "a dog", "ugly", f"h{i}", pixels[i], i == 1)
            for i in range(3)]
    if not store.has_shard(index):
        store.write_shard(index, rows, features)
        store.add_features(index, "late", features["zoo-clip"])
"""


def _kill_while_writing(folder: Path, delay_s: float) -> None:
    root = str(Path(sunbench.__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = len(list(folder.glob("shard-*.json")))
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], env={**os.environ, "PYTHONPATH": path}
    ) as writer:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("shard-*.json"))) <= done and time.monotonic() < deadline:
            assert writer.poll() is None
            time.sleep(0.001)
        time.sleep(delay_s)
        writer.kill()
    assert writer.returncode == -9


def test_killed_at_any_moment_only_whole_shards_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(0)
    folder = tmp_path / "c"
    for _ in range(4):
        _kill_while_writing(folder, rng.random() * 0.02)
        store = CellStore(folder, CONTENT)
        shards = store.shards()
        assert shards == list(range(len(shards)))
        assert shards
        for index in shards:
            assert store.has_shard(index)
            assert same_images(store.read_rows(index, images=True), rows_of(index))
    assert "moved aside" not in caplog.text
    last = len(shards)
    store.write_shard(last, rows_of(last), features_of(last))
    assert store.has_shard(last)
    assert not list(folder.glob(".*.part"))


def test_two_processes_write_one_cell_at_once(tmp_path: Path) -> None:
    """They once removed each other's part files, and one of them failed."""
    root = str(Path(sunbench.__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    folder, script = tmp_path / "c", WRITER.replace("range(400)", "range(40)")
    script = script.replace("if not store.has_shard(index)", "if True")  # each writes all of them
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = [writer.communicate(timeout=120)[1].decode() for writer in writers]
    assert not list(folder.glob(".*.part"))
    store = CellStore(folder, CONTENT)
    for index in range(40):
        if not store.has_shard(index):
            store.write_shard(index, rows_of(index), features_of(index))
        assert same_images(store.read_rows(index, images=True), rows_of(index))
    assert all("shard" in text or not text for text in said), said
