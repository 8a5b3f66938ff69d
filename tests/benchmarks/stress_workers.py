"""kill -9 of random workers, again and again: every run must end as one that nobody disturbed.

    python tests/benchmarks/stress_workers.py FOLDER [--kills 50] [--workers 4] [--images 40]
    python tests/benchmarks/stress_workers.py FOLDER --model emoji    # the zoo's base

Runs in the tests' tiny world unless a model is named, as many runs as the kills need, in shards of
ten images; says at the end how it went, and fails where results.json or a manifest differs from the
undisturbed run's, which one process with one thread makes. Takes minutes.
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
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import tiny_sd
import torch

from sunbench.bench import Request
from sunbench.bench.run import execute
from sunbench.bench.workers import LocalWorkers
from sunbench.store import RunFolder

WORKER = Path(__file__).parents[1] / "support/lab_worker.py"

#: results.json and every manifest.
Run = tuple[bytes, dict[str, bytes]]


def run(request: Request, folder: Path, workers: LocalWorkers | None) -> Run:
    """results.json and every manifest of a run with a cache of its own."""
    os.environ["SUNBENCH_CACHE"] = str(folder / "cache")
    execute(request, folder / "run", workers=workers)
    manifests = {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("shard-?????.json")
    }
    return RunFolder(folder / "run").results_file.read_bytes(), manifests


def killer(
    workers: LocalWorkers, rng: random.Random, stop: threading.Event, dead: list[int]
) -> None:
    """Kill a random worker every now and then."""
    while not stop.wait(rng.uniform(2, 10)):
        if pids := workers.pids():
            os.kill(pid := rng.choice(pids), signal.SIGKILL)
            dead.append(pid)


def setting(folder: Path, model: str | None) -> tuple[str, Sequence[str]]:
    """The model and the command of a worker: `sunbench work`, or the tiny world's."""
    if model is not None:
        return model, LocalWorkers(0).command
    world = tiny_sd.World.write(folder)
    tiny_sd.settle(world, setattr)
    return str(world.card), (sys.executable, str(WORKER), str(folder))


def disturbed(
    request: Request, folder: Path, workers: LocalWorkers, rng: random.Random
) -> tuple[Run, int]:
    """A run whose workers are killed, and how many of them were."""
    dead, stop = list[int](), threading.Event()
    thread = threading.Thread(target=killer, args=(workers, rng, stop, dead))
    thread.start()
    try:
        return run(request, folder, workers), len(dead)
    finally:
        stop.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="of the zoo, or a card; the tests' tiny one by default")
    for name, value in (("kills", 50), ("workers", 4), ("images", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    model, command = setting(asked.folder, asked.model)
    request = Request(
        models=(model,), methods=("ddim",), steps=(2, 4), images=asked.images,
        seeds=tuple(range(asked.images // 10)), timing="none", batch=4,
    )  # fmt: skip
    torch.set_num_threads(1)
    expected = run(request, asked.folder / "straight", None)
    rng, kills, runs, began = random.Random(asked.seed), 0, 0, time.monotonic()
    while kills < asked.kills:
        workers, folder = LocalWorkers(asked.workers, command=command, failures=99), str(runs)
        result, dead = disturbed(request, asked.folder / folder, workers, rng)
        kills, runs = kills + dead, runs + 1
        if result != expected:
            sys.exit(f"run {runs} differs from the undisturbed one after {kills} kills")
        shutil.rmtree(asked.folder / folder)
        print(f"run {runs}: {dead} kills, {len(expected[1])} shards, identical", flush=True)
    print(f"{kills} kills over {runs} runs, all identical; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
