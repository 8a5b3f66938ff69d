"""Output that cannot be written: a full device, a reader that left, a terminal of plain ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUNBENCH = [sys.executable, "-m", "sunbench"]
FULL = Path("/dev/full")
#: The least that a terminal may be, as old servers and some schedulers have it.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def run(words: list[str], stdout: Any, unbuffered: str) -> subprocess.CompletedProcess[str]:
    """The command with its output going there; unbuffered: "1" for Python's ``-u``."""
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        [*SUNBENCH, *words],
        env=env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["version"], ["list", "prompts"], ["list", "prompts", "--json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_device_is_one_line(words: list[str], unbuffered: str):
    with FULL.open("w") as full:
        done = run(words, full, unbuffered)
    assert done.returncode == 2
    assert done.stderr == "sunbench: No space left on device\n"


@pytest.mark.parametrize("words", [["list", "methods"], ["list", "methods", "--json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_left_is_no_error(words: list[str], unbuffered: str):
    """As `sunbench list | head -1` does."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(words, write, unbuffered)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["list", "metrics"], 0), (["list", "metrics", "--json"], 0), (["list", "caf\xe9"], 2)],
)
def test_plain_ascii_is_enough(words: list[str], code: int):
    env = {**os.environ, **ASCII}
    done = subprocess.run([*SUNBENCH, *words], env=env, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == code, said
    assert said.isascii() or "--json" in words  # JSON is UTF-8 everywhere
    assert "Traceback" not in said
    assert "report it" not in said
