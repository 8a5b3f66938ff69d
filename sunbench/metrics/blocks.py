"""Features that are read in blocks, so that memory does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows in memory


@runtime_checkable
class Blocked(Protocol):
    """Rows (n, ...) that stand elsewhere, such as in the shards of a cell."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def parts(self) -> Iterator[NDArray[Any]]:
        """The rows in order, in parts of any size; read anew at each call."""
        ...


#: An array, or rows that are read when they are needed.
Rows = NDArray[Any] | Blocked


def blocks(rows: Rows, size: int = BLOCK) -> Iterator[NDArray[Any]]:
    """The rows in order, ``size`` at a time, however the parts are cut that they come in."""
    parts = rows.parts() if isinstance(rows, Blocked) else (rows,)
    waiting: list[NDArray[Any]] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= size:
            joined = _joined(waiting)
            yield joined[:size]
            waiting = [joined[size:]] if len(joined) > size else []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def whole(rows: Rows) -> NDArray[Any]:
    """All rows in memory."""
    return _joined(list(rows.parts())) if isinstance(rows, Blocked) else rows


def picked(rows: Rows, chosen: NDArray[np.bool_]) -> NDArray[Any]:
    """The rows (n,) that are chosen."""
    if not isinstance(rows, Blocked):
        return rows[chosen]
    return _joined([b[c] for b, c in zip(blocks(rows), blocks(chosen), strict=True)])


def together(rows: Iterable[Rows]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Blocks of several sets of as many rows, side by side."""
    return zip(*(blocks(r) for r in rows), strict=True)
