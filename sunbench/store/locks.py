"""Who is working in a run folder: a lock file with process and host."""

from __future__ import annotations

import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from sunbench.errors import UserError
from sunbench.store.files import make_folder, part_of, write_atomic

log = logging.getLogger(__name__)

_SAME_START = 2.0  # seconds: clocks are read with this much slack


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


def busy(lock: Path, by: Holder) -> UserError:
    """The one line that says a run is still going."""
    return UserError(
        f"{lock.parent}: this run is still going (process {by.pid} on {by.host}); wait for it, or "
        f"delete {lock} if that machine is gone"
    )


def create(lock: Path, mine: bytes) -> bool:
    """Create the lock with its content in one step; False when it is there already."""
    beside = part_of(lock.with_name(f"{lock.name}.{uuid.uuid4().hex}"))
    write_atomic(beside, mine)
    try:
        os.link(beside, lock)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True


def clear_stale(lock: Path, stale: bytes) -> None:
    """Take a dead process's lock away; if another taker was faster, give theirs back."""
    aside = lock.with_name(f".{lock.name}.{uuid.uuid4().hex}.stale")
    with suppress(FileNotFoundError):
        os.rename(lock, aside)
        if aside.read_bytes() != stale:
            with suppress(FileExistsError):
                os.link(aside, lock)
        aside.unlink()


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a lock file; UserError when a living process has it, a dead one's is taken over."""
    make_folder(lock.parent)
    mine = json.dumps(asdict(Holder.me())).encode()
    while not create(lock, mine):
        held = read_lock(lock)
        by = parse_holder(held)
        if by is not None and by.alive():
            raise busy(lock, by)
        log.info("%s: taking over from a process that is gone", lock)
        clear_stale(lock, held)
    try:
        yield
    finally:
        if read_lock(lock) == mine:
            lock.unlink()
