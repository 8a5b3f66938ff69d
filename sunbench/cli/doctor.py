"""``sunbench doctor``."""

from __future__ import annotations

from sunbench.cli import options as o
from sunbench.cli.console import out, print_json, rich_table


def doctor(as_json: o.Json = False) -> None:
    """Show device, memory, disk, versions, and which weights are available offline."""
    from sunbench.doctor import examine

    rows = examine()
    if as_json:
        print_json(dict(rows))
    else:
        out.print(rich_table("doctor", ["item", "value"], rows))
