"""One cell's folder of shards: committed by manifests, checked by checksums.

A shard is its files plus ``shard-00000.json``, which lists their sha256 and is written last: a
killed writer leaves either a whole shard or none. A broken file is named, moved aside as
``*.broken`` and its shard counts as missing, so that only that shard is sampled again.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from sunbench.errors import MissingFile, UnreadableFile, UserError
from sunbench.store import rows as parquet
from sunbench.store.files import (
    JsonObject,
    beside,
    key,
    link_or_copy,
    make_folder,
    open_file,
    parse_json,
    read_file,
    read_versioned,
    remove_parts,
    sha256_file,
    to_json,
    write_atomic,
)
from sunbench.store.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    ShardFiles,
    differences,
    feature_file,
    manifest_files,
    seal,
    stem,
    unseal,
)
from sunbench.store.rows import ShardRow
from sunbench.store.tensors import load_arrays

log = logging.getLogger(__name__)


class CellStore:
    """The shards of one cell in one folder; safe to write from threads.

    content: what the cell is (JSON-able); UserError when the folder holds another cell.
    repair: move broken files aside, so that their shards are sampled again; without it nothing in
    the folder is written, moved or removed, and a missing or broken cell.json is a UserError.
    """

    def __init__(self, folder: Path, content: Mapping[str, object], *, repair: bool = True) -> None:
        self.repair = repair
        self.folder = folder
        self.content: JsonObject = dict(content)
        self.key = key(self.content)
        self._lock = threading.RLock()
        self._checked: dict[int, tuple[tuple[int, int], ...]] = {}
        if repair:
            make_folder(folder)
            remove_parts(folder)
            self._claim()
        else:
            self._compare(read_versioned(folder / "cell.json", SCHEMA_VERSION, "`sunbench run`"))

    @classmethod
    def open(cls, folder: Path, *, repair: bool = True) -> CellStore:
        """The cell that a folder holds, for reading; UserError when it holds none."""
        document = read_versioned(folder / "cell.json", SCHEMA_VERSION, "`sunbench run`")
        content = document.get("content")
        if not isinstance(content, dict):
            raise UserError(f"{folder / 'cell.json'}: given no content, expected that of a cell")
        return cls(folder, content, repair=repair)

    def _claim(self) -> None:
        """Write ``cell.json``, or compare the one that is there."""
        file = self.folder / "cell.json"
        if file.exists():
            try:
                self._compare(_read(file))
                return
            except UnreadableFile:
                raise
            except UserError as error:
                if not self._is_ours(file):
                    raise
                self._move_aside(file, str(error))
        document = {"schema_version": SCHEMA_VERSION, "key": self.key, "content": self.content}
        write_atomic(file, to_json(document))

    def _is_ours(self, file: Path) -> bool:
        """Whether cell.json can only be this cell's: by the folder's name, or as it is broken."""
        if self.folder.name == self.key:
            return True
        try:
            _read(file)
        except UserError:
            return True
        return False

    def _compare(self, held: Mapping[str, object]) -> None:
        file, version = self.folder / "cell.json", held.get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(f"{file}: given schema_version {version!r}, expected {SCHEMA_VERSION}")
        if held.get("key") != self.key or _key(held.get("content")) != self.key:
            names = differences(held.get("content"), self.content)
            raise UserError(
                f"{file}: given cell {held.get('key')}, expected {self.key}; they differ in {names}"
            )

    # -------------------------------------------------------------------------- writing

    def write_shard(
        self,
        index: int,
        rows: Sequence[ShardRow],
        features: Mapping[str, NDArray[Any]],
        shard: str | None = None,
    ) -> None:
        """Write shard ``index``: rows at one distance and, per feature name, an array (rows, ...).

        shard: the key of its own content, by which other cells know it.

        Errors: ValueError for rows or features that do not fit; UserError on a full disk, which
        leaves the shard missing and the store whole.
        """
        first = _check_rows(rows)
        table = parquet.to_table(rows)
        data = {n: _pack(n, a, len(rows)) for n, a in features.items()}
        with self._lock:
            self._drop(index)
            images = self._put(
                f"{stem(index)}.parquet", lambda f: parquet.write_rows(f, table), table.nbytes
            )
            held = {n: self._put_feature(index, n, d) for n, d in data.items()}
            body: ShardFiles = {
                "rows": len(rows),
                "first": first,
                "images": images,
                "features": held,
            }
            if shard is not None:
                body["shard"] = shard
            self._commit(index, body)

    def adopt(self, index: int, other: CellStore, there: int, numbers: range) -> None:
        """Take a whole shard of another cell over as shard ``index``, by links where they can be.

        numbers: of its images in this cell; where they were others, the rows are written anew.
        """
        manifest = other.manifest(there)
        if len(numbers) != manifest["rows"]:
            raise ValueError(f"given {manifest['rows']} images, expected {len(numbers)}")
        with self._lock:
            self._drop(index)
            images = self._adopt_rows(index, other.folder / manifest["images"]["file"], numbers)
            features = {
                name: self._link(feature_file(index, name), other.folder / entry["file"])
                for name, entry in manifest["features"].items()
            }
            own: ShardFiles = {
                **manifest,
                "first": numbers.start,
                "images": images,
                "features": features,
            }
            self._commit(index, own)

    def _adopt_rows(self, index: int, source: Path, numbers: range) -> FileEntry:
        name = f"{stem(index)}.parquet"
        with open_file(source) as data:
            table = parquet.renumbered(data, numbers)
        if table is None:
            return self._link(name, source)
        return self._put(name, lambda f: parquet.write_rows(f, table), table.nbytes)

    def _link(self, name: str, source: Path) -> FileEntry:
        file = self.folder / name
        link_or_copy(source, file)
        return _entry(file)

    def add_features(self, index: int, name: str, array: NDArray[Any]) -> None:
        """Store an array (rows, ...) beside a shard's images, replacing one of the same name."""
        with self._lock:
            manifest = self.manifest(index)
            data = _pack(name, array, manifest["rows"])
            held = dict(manifest["features"])
            if held.pop(name, None) is not None:
                self._commit(index, {**manifest, "features": held})
            held[name] = self._put_feature(index, name, data)
            self._commit(index, {**manifest, "features": held})

    def _put(self, name: str, write: Callable[[BinaryIO], None], size: int) -> FileEntry:
        file = self.folder / name
        with beside(file, size) as out:
            write(out)
        return _entry(file)

    def _put_feature(self, index: int, name: str, data: bytes) -> FileEntry:
        return self._put(feature_file(index, name), lambda f: _write(f, data), len(data))

    def _commit(self, index: int, body: ShardFiles) -> None:
        """Write the manifest: from here on the shard is there.

        Its features stand in the order of their names, whoever added which.
        """
        features = {name: body["features"][name] for name in sorted(body["features"])}
        body = {**body, "features": features}
        write_atomic(self._manifest_file(index), seal(body, self.key, index))
        self._checked[index] = self._stamp(body)

    def _drop(self, index: int) -> None:
        if self.repair:
            self._manifest_file(index).unlink(missing_ok=True)
        self._checked.pop(index, None)

    # -------------------------------------------------------------------------- checking

    def _manifest_file(self, index: int) -> Path:
        return self.folder / f"{stem(index)}.json"

    def _move_aside(self, file: Path, why: str) -> None:
        if not self.repair:
            return
        log.warning("%s; moved aside, to be sampled again", why)
        with suppress(FileNotFoundError):
            file.replace(file.with_name(file.name + ".broken"))

    def shards(self) -> list[int]:
        """Numbers of the shards that were committed, in order; their files are not checked."""
        matches = (re.fullmatch(r"shard-(\d+)\.json", f.name) for f in self.folder.glob("shard-*"))
        return sorted(int(m[1]) for m in matches if m)

    def has_shard(self, index: int) -> bool:
        """Whether a shard is there with every checksum right; a broken one is moved aside."""
        with self._lock:
            return self._verified(index) is not None

    def manifest(self, index: int) -> ShardFiles:
        """What a whole shard consists of; UserError when it is missing or broken."""
        with self._lock:
            manifest = self._verified(index)
        if manifest is None:
            raise UserError(
                f"{self._manifest_file(index)}: shard {index} is missing or broken; run again to "
                "make it"
            )
        return manifest

    def _verified(self, index: int) -> ShardFiles | None:
        file = self._manifest_file(index)
        try:
            manifest = unseal(read_file(file), str(file), self.key, index)
        except MissingFile:
            return None
        except UnreadableFile:
            raise
        except UserError as error:
            self._move_aside(file, str(error))
            return None
        if not self._unchanged(index, manifest):
            if any([self._bad(e) for e in manifest_files(manifest)]):
                self._drop(index)
                return None
            self._checked[index] = self._stamp(manifest)
        return manifest

    def _stamp(self, manifest: ShardFiles) -> tuple[tuple[int, int], ...]:
        """Size and time of change of each file."""
        stats = [(self.folder / e["file"]).stat() for e in manifest_files(manifest)]
        return tuple((s.st_size, s.st_mtime_ns) for s in stats)

    def _unchanged(self, index: int, manifest: ShardFiles) -> bool:
        """Whether this object has already checked these very files."""
        with suppress(FileNotFoundError):
            return self._checked.get(index) == self._stamp(manifest)
        return False

    def _bad(self, entry: FileEntry) -> bool:
        """Whether a file is not what its manifest says; then it is named and moved aside."""
        file = self.folder / entry["file"]
        if not file.exists():
            log.warning("%s is missing; its shard is to be sampled again", file)
            return True
        if not file.is_file():
            self._move_aside(file, f"{file} is no file")
            return True
        if (file.stat().st_size, sha256_file(file)) == (entry["bytes"], entry["sha256"]):
            return False
        self._move_aside(file, f"{file} does not match its checksum")
        return True

    # -------------------------------------------------------------------------- reading

    def read_rows(
        self, index: int, images: bool = False, only: Collection[int] | None = None
    ) -> list[ShardRow]:
        """Rows of a whole shard, with pixels when images is set and they were kept.

        only: the image numbers to read, by default all.
        """
        file = self.folder / self.manifest(index)["images"]["file"]
        with open_file(file) as data:
            return list(parquet.read_rows(data, str(file), images, only))

    def read_features(self, index: int, name: str) -> NDArray[Any] | None:
        """The array (rows, ...) stored under a feature's name, or None."""
        entry = self.manifest(index)["features"].get(name)
        return None if entry is None else load_arrays(self.folder / entry["file"])["features"]

    def feature_names(self, index: int) -> list[str]:
        """Names of the features stored beside a shard's images."""
        return sorted(self.manifest(index)["features"])


def _entry(file: Path) -> FileEntry:
    return {"file": file.name, "sha256": sha256_file(file), "bytes": file.stat().st_size}


def _read(file: Path) -> JsonObject:
    return parse_json(read_file(file), str(file))


def _key(content: object) -> str | None:
    try:
        return key(content)
    except ValueError:
        return None


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _pack(name: str, array: NDArray[Any], rows: int) -> bytes:
    if array.ndim == 0 or array.shape[0] != rows:
        raise ValueError(f"feature {name!r}: given shape {array.shape}, expected ({rows}, ...)")
    return save({"features": np.ascontiguousarray(array)}, {"name": name})


def _check_rows(rows: Sequence[ShardRow]) -> int:
    """Index of the first row; ValueError unless every two neighbors are one distance apart."""
    if not rows:
        raise ValueError("given 0 rows, expected at least one")
    numbers = [r.index for r in rows]
    first, step = numbers[0], numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step < 1 or numbers != list(range(first, first + step * len(rows), step)):
        raise ValueError(f"given image numbers {numbers}, expected numbers at one distance")
    return first
