"""Output that cannot be written: a full device, a reader that left, a terminal of plain ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUNBENCH = [sys.executable, "-m", "sunbench"]
FULL = Path("/dev/full")
#: The least that a terminal may be, as old servers and some schedulers have it.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["version"], ["list", "prompts"], ["list", "--json"], ["-h"]])
def test_a_full_device_is_one_line(words: list[str]):
    """The interpreter flushes once more at exit, and once told of that with a traceback."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [*SUNBENCH, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "sunbench: No space left on device\n"


@pytest.mark.parametrize("words", [["version"], ["list", "methods"], ["list", "--json"]])
def test_a_reader_that_left_is_no_error(words: list[str]):
    """As `sunbench list | head -1` does."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*SUNBENCH, *words], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["list"], 0), (["list", "--json"], 0), (["run", "-h"], 0), (["verify", "caf\xe9"], 2)],
)
def test_plain_ascii_is_enough(words: list[str], code: int, tmp_path: Path):
    env = {**os.environ, **ASCII, "SUNBENCH_CACHE": str(tmp_path)}
    done = subprocess.run([*SUNBENCH, *words], env=env, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode("ascii")
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert "report it" not in said
