"""Runs in a tiny world; see ``tests/support/run_lab.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from run_lab import done, finished, lab, world

from sunbench.cli import main

__all__ = ["done", "finished", "lab", "typed_sunbench", "world"]


@pytest.fixture
def typed_sunbench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """The command line as typed: exit code and what it complains of."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sunbench", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), capsys.readouterr().err

    return run
