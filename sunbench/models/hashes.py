"""Content hashes of weight files, computed once per file and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sunbench.paths import cache_root

logger = logging.getLogger(__name__)


def _note(path: Path) -> Path:
    """The cache entry of a file; a changed size or time gives another entry."""
    real = path.resolve()
    stat = real.stat()
    identity = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
    return cache_root() / "hashes" / hashlib.sha256(identity.encode()).hexdigest()[:32]


def file_hash(path: Path) -> str:
    """Give a file's sha256, from the cache when path, size and modification time are known."""
    note = _note(path)
    known = note.read_text() if note.is_file() else ""
    if re.fullmatch(r"[0-9a-f]{64}", known):
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _remember(note, digest)
    return digest


def _remember(note: Path, digest: str) -> None:
    beside = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(digest)
        beside.replace(note)
    except OSError as error:
        logger.warning("hash cache %s cannot be written: %s", note.parent, error.strerror)


def files_hash(paths: Sequence[Path]) -> str:
    """Give one file's sha256, or the sha256 of several files' hashes in name order."""
    digests = [file_hash(path) for path in sorted(paths)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def value_hash(value: Mapping[str, Any]) -> str:
    """Give the sha256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
