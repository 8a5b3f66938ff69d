"""A finished run of a tiny world; see ``tests/support/run_lab.py``."""

from __future__ import annotations

from run_lab import done, finished, lab, world

__all__ = ["done", "finished", "lab", "world"]
