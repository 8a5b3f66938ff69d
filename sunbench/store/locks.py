"""Who is working in a run folder: a lock file with process and host.

filelock keeps takers apart; the file itself is ours, since filelock names no holder, believes no
other host and waits for a lock that was cut short.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from sunbench.errors import UserError
from sunbench.store.files import make_folder, write_atomic

log = logging.getLogger(__name__)

_SAME_START = 2.0  # seconds: clocks are read with this much slack
_PATIENCE = 60.0  # seconds for other takers, who are done within one


@dataclass(frozen=True)
class Holder:
    """A process: number, host, and start, since numbers are used again.

    started: seconds since boot, which a step of the clock does not change.
    """

    pid: int
    host: str
    started: float

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        return cls(os.getpid(), socket.gethostname(), seconds_since_boot(psutil.Process()))

    @property
    def is_me(self) -> bool:
        """Whether this very process holds the lock."""
        return self.pid == os.getpid() and self.host == socket.gethostname()

    def alive(self) -> bool:
        """Whether the process still goes; one on another host counts as alive."""
        if self.host != socket.gethostname():
            return True
        try:
            started = seconds_since_boot(psutil.Process(self.pid))
        except (psutil.Error, ValueError, OverflowError):
            return False
        return abs(started - self.started) < _SAME_START


def holder(lock: Path) -> Holder | None:
    """The living process that holds a lock, or None when it is free or stale."""
    by = parse_holder(read_lock(lock))
    return by if by is not None and by.alive() else None


def seconds_since_boot(process: psutil.Process) -> float:
    """When a process started, unmoved by steps of the clock."""
    return process.create_time() - psutil.boot_time()


def read_lock(lock: Path) -> bytes:
    """The content of a lock, empty where there is none; UserError where it cannot be read."""
    try:
        if lock.exists() and not lock.is_file():
            raise UserError(f"given {lock}, which is no file, expected a lock; remove it")
        return lock.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"cannot read {lock}: {error.strerror or error}") from error


def parse_holder(data: bytes) -> Holder | None:
    """Who wrote a lock; None for nonsense."""
    try:
        record = json.loads(data)
        return Holder(int(record["pid"]), str(record["host"]), float(record["started"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def still_going(lock: Path, by: Holder) -> UserError:
    """The one line that says a run is still going."""
    return UserError(
        f"{lock.parent}: this run is still going (process {by.pid} on {by.host}); wait for it, or "
        f"delete {lock} if that machine is gone"
    )


@contextmanager
def taking(lock: Path) -> Iterator[None]:
    """Look at a lock and write into it while no other process does; they wait meanwhile."""
    make_folder(lock.parent)
    guard = FileLock(lock.with_name(f".{lock.name}.taking"), poll_interval=0.01)
    try:
        guard.acquire(timeout=_PATIENCE)
    except OSError as error:
        raise UserError(f"cannot write {lock}: {error.strerror or error}") from error
    try:
        yield
    finally:
        Path(guard.lock_file).unlink(missing_ok=True)  # who then gets the old file tries again
        guard.release()


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a lock file; UserError when a living process has it, a dead one's is taken over."""
    mine = json.dumps(asdict(Holder.me())).encode()
    with taking(lock):
        held = read_lock(lock)
        by = parse_holder(held)
        if by is not None and by.alive():
            raise still_going(lock, by)
        if held:
            log.info("%s: taking over from a process that is gone", lock)
        write_atomic(lock, mine)
    try:
        yield
    finally:
        if read_lock(lock) == mine:
            lock.unlink()
