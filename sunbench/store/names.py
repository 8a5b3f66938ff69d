"""Names as file names: different names never share a file, on any file system."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

LONGEST = 120  # characters; file systems take 255 bytes, suffixes and part files included


def file_stem(name: str) -> str:
    """One name as a file name: itself in small letters, digits, _ and -, else with a digest."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", name)
    return stem if stem == name and 0 < len(name) <= LONGEST else _marked(stem, name)


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """Names that share a folder as readable file names, without a suffix.

    A name gets a digest only where it loses letters of other scripts, is too long, or where
    another's file name would be the same, in large or small letters.
    """
    plain = {name: re.sub(r"[^A-Za-z0-9.+_]+", "-", name).strip("-.") for name in names}
    taken = Counter(stem.casefold() for stem in plain.values())
    whole = {n for n, stem in plain.items() if n.isascii() and n.isprintable() and stem}
    return {
        name: stem
        if name in whole and taken[stem.casefold()] == 1 and len(stem) <= LONGEST
        else _marked(stem, name)
        for name, stem in plain.items()
    }


def _marked(stem: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{stem[: LONGEST - 9]}-{digest}".lstrip("-")
