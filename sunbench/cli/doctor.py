"""``sunbench doctor``."""

from __future__ import annotations

from sunbench.cli.console import out, table


def doctor() -> None:
    """Device, memory, disk, versions, and what is reachable offline."""
    from sunbench.doctor import examine

    out.print(table("doctor", ["what", "found"], examine()))
