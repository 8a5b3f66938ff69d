"""kill -9 of random workers, again and again: every run must end as one that nobody disturbed.

    python tests/benchmarks/stress_workers.py FOLDER [--kills 50] [--workers 4] [--images 40]
    python tests/benchmarks/stress_workers.py FOLDER --model emoji    # the zoo's base

Runs in the tests' tiny world unless a model is named, as many runs as the kills need, in shards of
ten images; says at the end how it went, and fails where results.json or a manifest differs from the
undisturbed run's, which one process with one thread makes. Takes minutes. Where a worker takes
long to start, kill less often (--every), or none lives to make a shard.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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


def claimed(cache: Path) -> set[int]:
    """Processes that are making a shard, by their claims."""
    pids = set()
    for file in cache.glob("claims/*"):
        with suppress(OSError, ValueError):  # given back meanwhile
            pids.add(int(json.loads(file.read_bytes())["pid"]))
    return pids


@dataclass
class Killer:
    """Kills a random worker every few seconds until it is stopped.

    every: seconds between two kills, on average. kills: how many died; at_work: of these, how many
    held the claim of a shard.
    """

    rng: random.Random
    every: float
    kills: int = 0
    at_work: int = 0

    def run(self, workers: LocalWorkers, cache: Path, stop: threading.Event) -> None:
        """Kill workers of one run."""
        while not stop.wait(self.rng.uniform(self.every / 3, self.every * 5 / 3)):
            if pids := workers.pids():
                victim = self.rng.choice(pids)
                self.at_work += victim in claimed(cache)
                os.kill(victim, signal.SIGKILL)
                self.kills += 1


def setting(folder: Path, model: str | None) -> tuple[str, Sequence[str]]:
    """The model and the command of a worker: `sunbench work`, or the tiny world's."""
    if model is not None:
        return model, LocalWorkers(0).command
    world = tiny_sd.World.write(folder)
    tiny_sd.settle(world, setattr)
    return str(world.card), (sys.executable, str(WORKER), str(folder))


def disturbed(request: Request, folder: Path, workers: LocalWorkers, killer: Killer) -> Run:
    """A run whose workers are killed."""
    stop = threading.Event()
    thread = threading.Thread(target=killer.run, args=(workers, folder / "cache", stop))
    thread.start()
    try:
        return run(request, folder, workers)
    finally:
        stop.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="of the zoo, or a card; the tests' tiny one by default")
    for name, value in (("kills", 50), ("workers", 4), ("images", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--every", type=float, default=6, help="seconds between kills, on average")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    model, command = setting(asked.folder, asked.model)
    request = Request(
        models=(model,), methods=("ddim",), steps=(2, 4), images=asked.images,
        seeds=tuple(range(asked.images // 10)), timing="none", batch=4,
    )  # fmt: skip
    torch.set_num_threads(1)
    expected = run(request, asked.folder / "straight", None)
    killer, runs, began = Killer(random.Random(asked.seed), asked.every), 0, time.monotonic()
    while killer.kills < asked.kills:
        workers = LocalWorkers(asked.workers, command=command, failures=99)
        folder, runs = asked.folder / str(runs), runs + 1
        if disturbed(request, folder, workers, killer) != expected:
            sys.exit(f"run {runs} differs from the undisturbed one after {killer.kills} kills")
        shutil.rmtree(folder)
        print(
            f"run {runs} is identical: {len(expected[1])} shards; {killer.kills} kills so far",
            flush=True,
        )
    seconds = time.monotonic() - began
    print(f"{killer.kills} kills, {killer.at_work} of them of a worker that was making a shard,")
    print(f"over {runs} runs with {asked.workers} workers: all identical; {seconds:.0f} s")


if __name__ == "__main__":
    main()
