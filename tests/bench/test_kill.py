"""A run that is killed again and again ends as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sunbench.bench.verify import verify_run

TABLES = ("results.md", "results.csv", "results.tex", "pairs.csv")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_resume_to_the_same_tables(
    world: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(world.card.parent), str(tmp_path), "4", "5"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["codes"].count(-9) >= 3, said
    assert said["codes"][-1] == 0, done.stderr[-3000:]
    assert said["kept"], "a whole shard was sampled again"
    assert 0 < said["whole"] < 12
    assert said["new"] == {"killed": 12 - said["whole"], "straight": 12}
    for name in TABLES:
        killed, straight = ((tmp_path / w / "run/tables" / name) for w in ("killed", "straight"))
        assert killed.read_bytes() == straight.read_bytes(), name
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "killed/cache"))
    assert verify_run(tmp_path / "killed/run") == (3, [])
    assert not list((tmp_path / "killed").rglob(".*.part"))
