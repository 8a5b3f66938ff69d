"""Content hashes of weight files, computed once per file and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sunbench.paths import cache_root
from sunbench.store.files import read_file, sha256_file

logger = logging.getLogger(__name__)


def _identity(path: Path) -> str:
    """A changed place, size or time makes another file."""
    real = path.resolve()
    stat = real.stat()
    return f"{real}|{stat.st_size}|{stat.st_mtime_ns}"


def file_hash(path: Path) -> str:
    """Give a file's sha256, from the cache when path, size and modification time are known.

    A cache entry is a hash and a checksum of it; one that does not add up is not believed.
    """
    identity = _identity(path)
    note = cache_root() / "hashes" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    known = _known(note, identity)
    if known is not None:
        return known
    digest = sha256_file(path)
    _remember(note, f"{digest} {_checksum(identity, digest)}")
    return digest


def _checksum(identity: str, digest: str) -> str:
    return hashlib.sha256(f"{identity} {digest}".encode()).hexdigest()[:16]


def _known(note: Path, identity: str) -> str | None:
    """The hash in a cache entry; None where there is none, or a damaged one."""
    try:
        digest, _, checksum = read_file(note).decode("ascii").partition(" ")
    except ValueError:  # none, not to be read, or no ASCII
        return None
    return digest if checksum == _checksum(identity, digest) else None


def _remember(note: Path, text: str) -> None:
    beside = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.replace(note)
    except OSError as error:
        logger.warning("hash cache %s cannot be written: %s", note.parent, error.strerror)


def files_hash(paths: Sequence[Path]) -> str:
    """Give one file's sha256, or the sha256 of several files' hashes in name order."""
    digests = [file_hash(path) for path in sorted(paths)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def value_hash(value: Mapping[str, object]) -> str:
    """Give the sha256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
