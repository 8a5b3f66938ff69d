"""Files that the system does not let a test read, whoever runs it: to root, mode 000 is nothing."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest


def refuse(monkeypatch: pytest.MonkeyPatch, refused: Path) -> None:
    """Opening this file fails as it does without permission."""
    opened = Path.open

    def open_other(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.absolute() == refused.absolute():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_other)
