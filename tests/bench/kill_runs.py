"""Kill -9 a run at random renames, then let it end; say how it went, as JSON.

Arguments: folder of tests/support/tiny_sd.py's world, folder to work in, seed, number of kills.
The process imports everything once and forks, so that a kill costs a second and not ten.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from sunbench.bench import Request
from sunbench.bench.run import execute
from sunbench.report.tables import write_tables
from sunbench.store import RunFolder

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


def die_at(moment: int) -> None:
    """Kill this process at a rename: before it when the moment is even, after it when odd."""
    rename, count = os.replace, 0

    def counted(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == moment and moment % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*args, **kwargs)
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted


def attempt(request: Request, work: Path, moment: int | None) -> int:
    """Run in a child; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if moment is not None:
                die_at(moment)
            os.environ["SUNBENCH_CACHE"] = str(work / "cache")
            outcome = execute(request, work / "run")
            write_tables(RunFolder(work / "run"))
            (work / "new").write_text(str(outcome.new_shards))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def committed(work: Path) -> dict[str, int]:
    """Manifests, which are written last, and when."""
    return {str(f): f.stat().st_mtime_ns for f in work.rglob("shard-?????.json")}


def main() -> None:
    """Run, kill, resume; then the same without a kill."""
    world_folder, work, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    import tiny_sd as tiny

    world = tiny.World.at(world_folder)
    tiny.settle(world, setattr)
    request = Request(
        models=(str(world.card),), methods=("ddim",), steps=(2,), images=12, seeds=(0, 1), batch=3
    )
    straight = work / "straight"
    os.environ["SUNBENCH_CACHE"] = str(straight / "cache")
    uninterrupted = execute(request, straight / "run").new_shards  # imports all that a run needs
    write_tables(RunFolder(straight / "run"))
    rng, codes, kept = random.Random(int(seed)), [], True
    for _ in range(int(kills)):
        before = committed(work / "killed")
        codes.append(attempt(request, work / "killed", rng.randint(3, 22)))
        after = committed(work / "killed")
        kept = kept and all(after.get(f) == t for f, t in before.items())
    whole = len(committed(work / "killed"))
    codes.append(attempt(request, work / "killed", None))
    new = {"killed": int((work / "killed/new").read_text()), "straight": uninterrupted}
    print(json.dumps({"codes": codes, "kept": kept, "whole": whole, "new": new}))


if __name__ == "__main__":
    main()
