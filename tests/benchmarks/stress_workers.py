"""kill -9 of random workers, again and again: every run must end as one that nobody disturbed.

    python tests/benchmarks/stress_workers.py FOLDER [--kills 50] [--workers 4] [--images 40]

Runs in the tests' tiny world, as many as the kills need; says at the end how it went, and fails
where results.json or a manifest differs from the undisturbed run's. Takes minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import tiny_sd

from sunbench.bench import Request
from sunbench.bench.run import execute
from sunbench.bench.workers import LocalWorkers
from sunbench.store import RunFolder

WORKER = Path(__file__).parents[1] / "support/lab_worker.py"


def run(request: Request, folder: Path, workers: LocalWorkers | None) -> tuple[bytes, dict]:
    """results.json and every manifest of a run with a cache of its own."""
    os.environ["SUNBENCH_CACHE"] = str(folder / "cache")
    execute(request, folder / "run", workers=workers)
    manifests = {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("shard-?????.json")
    }
    return RunFolder(folder / "run").results_file.read_bytes(), manifests


def killer(workers: LocalWorkers, rng: random.Random, stop: threading.Event, dead: list) -> None:
    """Kill a random worker every now and then."""
    while not stop.wait(rng.uniform(2, 10)):
        if pids := workers.pids():
            os.kill(pid := rng.choice(pids), signal.SIGKILL)
            dead.append(pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, value in (("kills", 50), ("workers", 4), ("images", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    world = tiny_sd.World.write(given.folder)
    tiny_sd.settle(world, setattr)
    request = Request(
        models=(str(world.card),), methods=("ddim",), steps=(2, 4), images=given.images,
        seeds=tuple(range(given.images // 10)), timing="none", batch=4,
    )  # fmt: skip
    expected = run(request, given.folder / "straight", None)
    rng, dead, runs, began = random.Random(given.seed), [], 0, time.monotonic()
    while len(dead) < given.kills:
        command = (sys.executable, str(WORKER), str(given.folder))
        workers, stop = LocalWorkers(given.workers, command=command, failures=99), threading.Event()
        thread = threading.Thread(target=killer, args=(workers, rng, stop, dead))
        thread.start()
        try:
            found = run(request, given.folder / str(runs), workers)
        finally:
            stop.set()
            thread.join()
        if found != expected:
            sys.exit(f"run {runs} differs from the undisturbed one after {len(dead)} kills")
        shutil.rmtree(given.folder / str(runs))
        runs += 1
    print(f"{len(dead)} kills over {runs} runs, all identical; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
