"""A folder as on a read-only mount, whoever runs the tests: to root, permissions are nothing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Events of Python's audit that change a folder, and how many of their arguments are paths.
CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.rmdir", "os.remove", "os.utime", "os.truncate"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
    "os.chmod": 1,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_folders: list[str] = []
_listening = False


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Whatever this process writes, makes, moves or removes below the folder fails with EROFS."""
    global _listening
    if not _listening:  # a hook stays for good; without a folder it does nothing
        sys.addaudithook(_refuse)
        _listening = True
    _folders.append(str(folder.resolve()))
    try:
        yield
    finally:
        _folders.pop()


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if not _folders:
        return
    if event == "open":
        changed = args[:1] if int(args[2] or 0) & WRITING else ()
    else:
        changed = args[: CHANGES.get(event, 0)]
    for path in changed:
        if _inside(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


def _inside(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    absolute = os.path.abspath(os.fsdecode(path))
    return any(os.path.commonpath([absolute, folder]) == folder for folder in _folders)
