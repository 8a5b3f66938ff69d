"""What cannot be had offline says so in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sunbench.errors import NotAvailable

__all__ = ["NotAvailable", "fetching"]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it; open_clip hides a failed fetch behind a RuntimeError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _out_of_reach(error: BaseException) -> bool:
    """Whether an error means that a file could not be fetched."""
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(modules & {"httpx", "httpx2", "requests", "urllib3"})


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Turn a failed fetch of `what` into NotAvailable; every other error passes."""
    try:
        yield
    except Exception as error:
        behind = [e for e in _chain(error) if _out_of_reach(e)]
        if not behind:
            raise
        reason = type(behind[0]).__name__
        raise NotAvailable(f"weights not available offline: {what} ({reason})") from error
