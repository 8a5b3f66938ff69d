"""Who makes a shard: a claim file per key, on one machine or on a file system that several share.

A holder touches its claims every few seconds. Whoever waits for a claim watches whether the touch
moves on, by a clock of its own, so neither a step of a clock nor another machine's clock matters.
A claim is free at once when its process on this host is gone, and after ``expiry`` seconds without
a touch wherever it was.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from sunbench.store.files import write_atomic
from sunbench.store.locks import Holder, parse_holder, read_lock, taking

log = logging.getLogger(__name__)

#: Seconds between two touches, and seconds without one after which a claim is free.
HEARTBEAT = 5.0
EXPIRY = 60.0


class Claims:
    """The claims of one process in one folder; safe to use from threads."""

    def __init__(
        self, folder: Path, *, heartbeat: float = HEARTBEAT, expiry: float = EXPIRY
    ) -> None:
        self.folder, self.heartbeat, self.expiry = folder, heartbeat, expiry
        self._mine: dict[str, bytes] = {}
        self._seen: dict[str, tuple[tuple[bytes, int], float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def file(self, name: str) -> Path:
        """The claim's file."""
        return self.folder / name

    def take(self, name: str) -> bool:
        """Claim a name that nobody alive holds; False while somebody else does."""
        if name in self._mine:
            return self.holds(name)
        record = {**asdict(Holder.me()), "token": uuid.uuid4().hex}
        mine = json.dumps(record).encode()
        with taking(self.file(name)):
            held = read_lock(self.file(name))
            if held and not self._is_free(name, held):
                return False
            if held:
                log.warning("%s: taking over the shard of a worker that is gone", name)
            write_atomic(self.file(name), mine)
        self._mine[name] = mine
        self._beat()
        return True

    def holds(self, name: str) -> bool:
        """Whether a claim of this process still stands: it was not taken over meanwhile."""
        mine = self._mine.get(name)
        return mine is not None and read_lock(self.file(name)) == mine

    def release(self, name: str) -> None:
        """Give a claim back; nothing where it was taken over."""
        if self.holds(name):
            self.file(name).unlink(missing_ok=True)
        self._mine.pop(name, None)

    def close(self) -> None:
        """Give all claims back."""
        for name in list(self._mine):
            self.release(name)
        self._stop.set()

    # -------------------------------------------------------------------------- waiting

    def _is_free(self, name: str, held: bytes) -> bool:
        """Whether a claim's holder is gone, as far as this process can tell by now."""
        by = parse_holder(held)
        if by is not None and not by.alive():
            return True
        try:
            stamp = held, self.file(name).stat().st_mtime_ns
        except FileNotFoundError:
            return False
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != stamp:
            self._seen[name] = (stamp, now)
            return False
        return now - since > self.expiry

    # -------------------------------------------------------------------------- heartbeat

    def _beat(self) -> None:
        """Start the thread that touches claims, unless it goes already."""
        if self._thread is None or not self._thread.is_alive():
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._touch, args=(self._stop,), name="claims", daemon=True
            )
            self._thread.start()

    def _touch(self, stop: threading.Event) -> None:
        while not stop.wait(self.heartbeat):
            for name in list(self._mine):
                with suppress(OSError):
                    os.utime(self.file(name))
