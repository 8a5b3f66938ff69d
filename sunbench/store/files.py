"""Files that are whole or absent: written beside, flushed, renamed, checksummed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from sunbench.errors import MissingFile, UnreadableFile, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
}
_CHUNK = 1 << 20
_PART_SECONDS = 86_400

#: What a JSON document or a TOML table holds, before anybody has checked it.
JsonObject = dict[str, Any]


def canonical(obj: object) -> bytes:
    """One spelling per JSON value: sorted keys, no spaces, ASCII; NaN is refused (ValueError)."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def key(obj: object) -> str:
    """Content key of a JSON-able object: 20 hex digits of the sha256 of its canonical form."""
    return hashlib.sha256(canonical(obj)).hexdigest()[:20]


def sha256_file(path: Path) -> str:
    """sha256 of a file in hex, read in 1 MiB pieces; errors as `open_file` has."""
    digest = hashlib.sha256()
    with _one_line(path), open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def human(size_bytes: float) -> str:
    """A byte count for people, e.g. ``12.3 GB`` (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.4g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g} TB"


def counted(number: int, noun: str) -> str:
    """A number of things in words: "1 thread", "2 threads"."""
    return f"{number} {noun}{'s' * (number != 1)}"


# ------------------------------------------------------------------------------ reading


def open_file(path: Path) -> BinaryIO:
    """Open a regular file to read; a FIFO or a folder in its place is refused, not waited for.

    Errors, one line each: MissingFile, UnreadableFile, UserError for what is no regular file.
    """
    with _one_line(path):
        if path.exists() and not path.is_file():
            kind = "folder" if path.is_dir() else "FIFO or device"
            raise UserError(f"cannot read {path}: given a {kind}, expected a regular file")
        return path.open("rb")


def read_file(path: Path) -> bytes:
    """The bytes of a regular file; errors as `open_file` has."""
    with _one_line(path), open_file(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The text of a regular UTF-8 file, less a byte order mark; errors as `open_file` has."""
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: given no UTF-8 text (byte {error.start})") from error


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise UnreadableFile(f"cannot read {path}: {error.strerror or error}") from error


# ------------------------------------------------------------------------------ writing


def _is_full(error: OSError) -> bool:
    return error.errno in _FULL or "No space left" in str(error)


def _explain(error: OSError, path: Path, needed_bytes: int | None) -> OSError | UserError:
    """What a failed write means for the user; errors that are nobody's fault pass unchanged."""
    if _is_full(error):
        needed = "more than is there" if needed_bytes is None else human(needed_bytes)
        return UserError(
            f"disk full while writing {path}: {needed} needed, {human(free_bytes(path.parent))} "
            "free; make room and run again, finished shards are kept"
        )
    if error.errno in _REFUSED:
        return UserError(f"cannot write {path}: {error.strerror or error}")
    return error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; UserError when that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(error, folder, None) from error


def part_of(path: Path) -> Path:
    """Where this thread writes a file before it is whole."""
    mark = f"{socket.gethostname()}.{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{mark}.part")


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in a folder.

    A part of a process that lives, or was written on another host, stays for a day.
    """
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            if _abandoned(part):
                part.unlink()


def _abandoned(part: Path) -> bool:
    host, _, writer = part.name.removesuffix(".part").rpartition(".")
    pid = writer.partition("-")[0]
    old = time.time() - part.stat().st_mtime > _PART_SECONDS
    ours = host.endswith(f".{socket.gethostname()}") and pid.isdecimal()
    return old or (ours and not psutil.pid_exists(int(pid)))


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can open folders."""
    with suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def beside(path: Path, needed_bytes: int | None = None) -> Iterator[BinaryIO]:
    """A file to write into; it becomes path, whole, when the block ends without an error.

    Errors: UserError on a full or unwritable disk; the partial file is removed on any error.
    """
    part = part_of(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explain(error, path, needed_bytes) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that at any moment either its old or its whole new content is there."""
    with beside(path, len(data)) as file:
        file.write(data)


def link_or_copy(source: Path, path: Path) -> None:
    """Make a file appear, whole, in a second place: a hard link, or a copy on another disk."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    try:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explain(error, path, None) from error
    finally:
        part.unlink(missing_ok=True)  # two links of one file: the rename did nothing


# ------------------------------------------------------------------------------ room


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or would be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def ensure_space(folder: Path, needed_bytes: int) -> None:
    """Before starting: the folder can be written and has room for needed_bytes, or a UserError."""
    make_folder(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe"):
            pass
    except OSError as error:
        raise _explain(error, folder, needed_bytes) from error
    free = free_bytes(folder)
    if needed_bytes > free:
        raise UserError(
            f"not enough room in {folder}: {human(needed_bytes)} needed, {human(free)} free"
        )


# ------------------------------------------------------------------------------ JSON documents


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number a result file may hold")


def to_json(document: object) -> bytes:
    """Readable JSON with one trailing newline; NaN and infinities are refused (ValueError)."""
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def parse_json(data: bytes, name: str) -> JsonObject:
    """A JSON object from bytes; UserError naming the file when broken, truncated or no object."""
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is broken or cut short ({error})") from error
    if not isinstance(document, dict):
        raise UserError(f"{name}: expected a JSON object, given {type(document).__name__}")
    return document


def read_toml(path: Path) -> JsonObject:
    """A TOML file as a table; UserError in one line where it is none."""
    data = read_file(path)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise UserError(f"{path} is not TOML (nested too deeply)") from error
    except ValueError as error:  # bad TOML, bytes that are no UTF-8, numbers of 5,000 digits
        raise UserError(f"{path} is not TOML ({error!s:.200})") from error


def read_versioned(path: Path, version: int, made_by: str) -> JsonObject:
    """Read a JSON document and check its ``schema_version``; one clear line for each defect."""
    try:
        data = read_file(path)
    except MissingFile as error:
        raise UserError(f"{path} is missing; expected a file written by {made_by}") from error
    document = parse_json(data, str(path))
    stated = document.get("schema_version")
    if type(stated) is not int or stated != version:
        older = type(stated) is int and 0 < stated < version
        why = f"; an earlier version of sunbench wrote it: use {made_by} again" if older else ""
        raise UserError(f"{path}: given schema_version {stated!r}, expected {version}{why}")
    return document
