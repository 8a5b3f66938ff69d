"""A worker of a run in the tiny world, as ``sunbench work`` is in the real one.

Arguments: the world's folder, then those of `sunbench work`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import tiny_sd

from sunbench.bench.work import work
from sunbench.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("world", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--signs", type=Path)
    parser.add_argument("--die", type=int, default=0, help="kill -9 at so many renames, one worker")
    arguments = parser.parse_args()
    tiny_sd.settle(tiny_sd.World.at(arguments.world), setattr)
    if arguments.die:
        die_once(arguments.die, arguments.signs.with_name("died"))
    try:
        work(arguments.run, signs=arguments.signs)
    except UserError as error:
        sys.exit(f"sunbench: {error}")


def settle_here() -> None:
    """In a process of Ray: the world that an environment variable names."""
    tiny_sd.settle(tiny_sd.World.at(Path(os.environ["LAB_WORLD"])), setattr)


def die_once(moment: int, mark: Path) -> None:
    if mark.exists():
        return
    rename, count = os.replace, [0]

    def counted(*args: object) -> None:
        count[0] += 1
        if count[0] == moment and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*args)  # type: ignore[arg-type]

    os.replace = counted  # type: ignore[assignment]


if __name__ == "__main__":
    main()
