"""Claims: one holder at a time, whatever dies and whatever the clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sunbench.store import Holder
from sunbench.store.claims import Claims


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("sunbench.store.claims.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def elsewhere(folder: Path, name: str = "a") -> Path:
    """A claim of a process on another host."""
    folder.mkdir(exist_ok=True)
    record = {"pid": 1, "host": "another-host", "started": 5.0, "token": "t"}
    (folder / name).write_text(json.dumps(record))
    return folder / name


def test_a_claim_has_one_holder(tmp_path: Path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a")
    assert not other.take("a")
    assert other.take("b")
    one.release("a")
    assert other.take("a")
    one.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_of_many_threads_one_gets_it(tmp_path: Path):
    taken: list[bool] = []
    threads = [
        threading.Thread(target=lambda: taken.append(Claims(tmp_path).take("a"))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) == 1


def test_a_dead_process_of_this_host_is_gone_at_once(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from sunbench.store.claims import Claims;"
        "Claims(Path(sys.argv[1])).take('a'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "a").exists()
    assert Claims(tmp_path).take("a")


def test_a_dead_host_is_gone_after_the_expiry(tmp_path: Path, clock: Clock):
    elsewhere(tmp_path)
    mine = Claims(tmp_path, expiry=60)
    assert not mine.take("a")
    clock.now += 59
    assert not mine.take("a")
    clock.now += 2
    assert mine.take("a")
    assert mine.holds("a")


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_touched_claim_stands_whatever_its_clock_says(tmp_path: Path, clock: Clock, hours: int):
    """Each touch comes from a clock that jumped."""
    file = elsewhere(tmp_path)
    mine = Claims(tmp_path, expiry=60)
    for beat in range(5):
        at = 1_700_000_000 + 3600 * hours * (beat % 2) + beat
        os.utime(file, (at, at))
        assert not mine.take("a")
        clock.now += 50
    clock.now += 50
    assert mine.take("a")


def test_who_lost_a_claim_knows_and_does_not_take_the_new_one_away(tmp_path: Path, clock: Clock):
    one, other = Claims(tmp_path), Claims(tmp_path, expiry=60)
    assert one.take("a")
    held = json.loads((tmp_path / "a").read_text())
    (tmp_path / "a").write_text(json.dumps(held | {"host": "another-host"}))  # as seen from afar
    assert not other.take("a")
    clock.now += 61
    assert other.take("a")
    assert not one.holds("a")
    one.release("a")
    assert other.holds("a")


def test_a_holder_touches_its_claims(tmp_path: Path):
    claims = Claims(tmp_path, heartbeat=0.01)
    assert claims.take("a")
    os.utime(tmp_path / "a", (5, 5))
    touched = threading.Event()
    for _ in range(500):
        if (tmp_path / "a").stat().st_mtime > 5:
            touched.set()
            break
        touched.wait(0.01)
    assert touched.is_set()
    claims.close()


def test_nonsense_in_a_claim_expires_too(tmp_path: Path, clock: Clock):
    (tmp_path / "a").write_bytes(b"\x00garbage")
    claims = Claims(tmp_path, expiry=60)
    assert not claims.take("a")
    clock.now += 61
    assert claims.take("a")
    assert json.loads((tmp_path / "a").read_text())["pid"] == Holder.me().pid
