"""Workers of one run as a discrete-event model: 1 to 256 of them, with failures and a shared disk.

    python tests/benchmarks/scale_model.py                      # the table of docs/scale.md
    python tests/benchmarks/scale_model.py --measure OUT    # beside real runs of 1, 2, 4 workers

A worker takes the first shard that is neither there nor claimed and whose reference is there, the
longest cells first, and where there is none, one that is paired later, as `sunbench.bench.work`
does; it samples it, then writes it through a disk that serves one writer at a time. Workers die at
random; the claim of a dead one is free again after its expiry, and the worker comes back after a
restart.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import random
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """A run's cells as costs.

    shards: per cell. reference, candidates: seconds of a shard of the reference (and the floor,
    which costs the same), and of each candidate. shard_bytes: of one shard on disk.
    """

    shards: int
    reference: float
    candidates: tuple[float, ...]
    floor: bool = True
    shard_bytes: float = 250 * 420e3

    @property
    def costs(self) -> list[list[float]]:
        """Seconds by cell and shard, the reference first."""
        cells = [self.reference, *[self.reference] * self.floor, *self.candidates]
        return [[cost] * self.shards for cost in cells]

    @property
    def seconds(self) -> float:
        """Seconds of all shards together."""
        return sum(map(sum, self.costs))


@dataclass(frozen=True)
class Site:
    """Where a run is worked on.

    start: seconds until a worker begins. mtbf: mean seconds between failures of one worker. expiry:
    seconds until a dead worker's claim is free. disk: bytes per second that all writers share.
    """

    workers: int
    start: float = 15.0
    mtbf: float = math.inf
    expiry: float = 60.0
    disk: float = math.inf


@dataclass
class Outcome:
    """How a simulated run went: seconds, shards that were begun in vain, seconds of waiting."""

    seconds: float = 0.0
    lost: int = 0
    waited: float = 0.0
    written: list[tuple[int, int]] = field(default_factory=list)


def simulate(plan: Plan, site: Site, seed: int = 0) -> Outcome:
    """One run from start to the last shard."""
    return _Simulation(plan, site, random.Random(seed)).run()


class _Simulation:
    def __init__(self, plan: Plan, site: Site, rng: random.Random) -> None:
        self.plan, self.site, self.rng = plan, site, rng
        self.costs, self.outcome = plan.costs, Outcome()
        longest = sorted(range(1, len(self.costs)), key=lambda c: -self.costs[c][0])
        self.open = deque((c, k) for c in (0, *longest) for k in range(plan.shards))
        self.there: set[tuple[int, int]] = set()
        self.events: list[tuple[float, int, str, tuple[int, int] | None]] = []
        self.idle: list[tuple[float, int]] = []
        self.disk_free, self.number = 0.0, 0

    def at(self, time: float, kind: str, shard: tuple[int, int] | None = None) -> None:
        self.number += 1
        heapq.heappush(self.events, (time, self.number, kind, shard))

    def run(self) -> Outcome:
        total = len(self.open)
        for _ in range(self.site.workers):
            self.at(self.site.start, "free")
        now = 0.0
        while len(self.there) < total:
            now, _, kind, shard = heapq.heappop(self.events)
            if kind == "made" and shard is not None:
                self.there.add(shard)
                self.outcome.written.append(shard)
                self._wake(now)
            elif kind == "expired" and shard is not None:
                self.open.appendleft(shard)
                self._wake(now)
            elif kind == "free":
                self._take(now)
        self.outcome.seconds = now
        return self.outcome

    def _wake(self, now: float) -> None:
        waiting, self.idle = self.idle, []
        for since, _ in waiting:
            self.outcome.waited += now - since
            self._take(now)

    def _take(self, now: float) -> None:
        """A worker that is free takes the first shard whose turn it is, or any, or waits."""
        if not self.open:
            self.idle.append((now, self.number))
            return
        ready = (s for s in self.open if s[0] == 0 or (0, s[1]) in self.there)
        shard = next(ready, self.open[0])
        self.open.remove(shard)
        cost = self.costs[shard[0]][shard[1]]
        lives = math.inf if math.isinf(self.site.mtbf) else self.rng.expovariate(1 / self.site.mtbf)
        if lives < cost:
            self.outcome.lost += 1
            self.at(now + lives + self.site.expiry, "expired", shard)
            self.at(now + lives + self.site.start, "free")
            return
        begin = max(now + cost, self.disk_free)
        self.disk_free = begin + self.plan.shard_bytes / self.site.disk
        self.at(self.disk_free, "made", shard)
        self.at(now + cost, "free")  # the shard is written while the next one is sampled


# ------------------------------------------------------------------------------ the study

#: A paper's table: 30,000 images, 25-step reference and floor, four methods at 4 and 8 steps.
#: 1.0 s of a shard's 250 images per U-Net evaluation at 512x512 in half precision, plus 12 s for
#: decoder and metrics: what docs/scale.md says of them.
STUDY = Plan(120, 25 * 2 + 12.0, (4 * 2 + 12.0, 8 * 2 + 12.0) * 4)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def table(plan: Plan, site: Site, seeds: int = 5) -> list[tuple[int, float, float, float]]:
    """Workers, hours, speed-up over one, efficiency; means over seeds."""
    out: list[tuple[int, float, float, float]] = []
    for n in WORKERS:
        runs = [simulate(plan, replace(site, workers=n), s).seconds for s in range(seeds)]
        hours = sum(runs) / seeds / 3600
        gain = out[0][1] / hours if out else 1.0
        out.append((n, hours, gain, gain / n))
    return out


@dataclass(frozen=True)
class RealRun:
    """A run on this machine; written: seconds from its begin to each manifest, with its cell."""

    seconds: float
    written: list[tuple[float, str]]


def real_run(folder: Path, workers: int, images: int) -> RealRun:
    """The zoo's base, shards of ten images, in a cache of its own; every worker has one thread."""
    from sunbench.bench import Request
    from sunbench.bench.run import execute
    from sunbench.bench.workers import LocalWorkers

    os.environ["SUNBENCH_CACHE"] = str(folder / "cache")
    request = Request(
        images=images, seeds=tuple(range(images // 10)), methods=("ddim",), steps=(4, 8),
        timing="none",
    )  # fmt: skip
    began = time.time()
    execute(request, folder / "run", workers=LocalWorkers(workers))
    seconds = time.time() - began
    manifests = folder.rglob("shard-?????.json")
    written = [(f.stat().st_mtime - began, str(f.parent.relative_to(folder))) for f in manifests]
    return RealRun(seconds, sorted(written))


def fitted(run: RealRun) -> tuple[Plan, float]:
    """The costs of a run with one worker, and the seconds until that worker began.

    A shard costs the time since the one before it; the first costs what its cell's others do.
    """
    gaps = defaultdict[str, list[float]](list)
    for (before, _), (now, cell) in pairwise(run.written):
        gaps[cell].append(now - before)
    costs = {cell: sum(own) / len(own) for cell, own in gaps.items()}
    order = list(dict.fromkeys(cell for _, cell in run.written))  # the reference, then the floor
    first, cell = run.written[0]
    shards = len(run.written) // len(order)
    reference = sum(costs[c] for c in order[:2]) / 2
    return Plan(shards, reference, tuple(costs[c] for c in order[2:])), first - costs[cell]


def shared(plan: Plan, workers: int, cores: int) -> Plan:
    """The plan where workers share fewer cores: every shard takes so many times as long."""
    slower = max(1.0, workers / cores)
    costs = tuple(cost * slower for cost in plan.candidates)
    return replace(plan, reference=plan.reference * slower, candidates=costs)


def measure(folder: Path, images: int) -> None:
    """Real runs of 1, 2 and 4 workers beside the model, whose costs are from the first of them."""
    cores = len(os.sched_getaffinity(0))
    runs = {n: real_run(folder / str(n), n, images) for n in (1, 2, 4)}
    plan, start = fitted(runs[1])
    print(f"{plan.shards} shards per cell, {cores} cores, a worker begins after {start:.1f} s\n")
    print("| workers | last shard, s | by the model | whole run, s |\n|---|---|---|---|")
    for n, run in runs.items():
        model = simulate(shared(plan, n, cores), Site(n, start=start)).seconds
        print(f"| {n} | {run.written[-1][0]:.1f} | {model:.1f} | {run.seconds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", metavar="OUT", type=Path, help="folder for real runs")
    parser.add_argument("--images", type=int, default=320, help="of a cell, a multiple of 10")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.images)
        return
    sites = {
        "no failures": Site(1),
        "a failure a worker and hour": Site(1, mtbf=3600.0),
        "and a disk of 200 MB/s": Site(1, mtbf=3600.0, disk=200e6),
    }
    for name, site in sites.items():
        print(f"\n{name}\nworkers  hours  speed-up  efficiency")
        for n, hours, gain, share in table(STUDY, site):
            print(f"{n:7d} {hours:6.2f} {gain:9.1f} {share:11.2f}")


if __name__ == "__main__":
    main()
