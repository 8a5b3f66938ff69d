"""A finished run read where the locale is plain ASCII: files are UTF-8 all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def test_a_run_is_read(done: Any):
    before, run = done.tables(), str(done.out / "run")
    ended = subprocess.run(
        [sys.executable, "-m", "sunbench", "report", run, "--html", "--figures"],
        env={**os.environ, **ASCII, "SUNBENCH_CACHE": str(done.cache)},
        capture_output=True,
        check=False,
    )
    said = (ended.stdout + ended.stderr).decode("ascii")
    assert ended.returncode == 0, said
    assert "Traceback" not in said
    assert done.tables() == before
