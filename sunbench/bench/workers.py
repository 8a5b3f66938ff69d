"""Workers of a run: processes of this machine, replaced when they die, watched to the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
import torch

from sunbench.bench.cells import PlannedCell
from sunbench.bench.order import file_of, skip_file
from sunbench.bench.planner import ModelPlan
from sunbench.bench.progress import Progress
from sunbench.errors import UserError
from sunbench.paths import cell_folder
from sunbench.store import RunFolder

#: Seconds between two looks at workers and shards.
WATCH = 0.5
#: A worker that fails so many times, without having made anything in between, stops the run.
FAILURES = 3
#: Work that is done sooner than a worker has started needs no workers.
WORTH_SECONDS = 60.0
#: Bytes that a worker takes beside twice the weights of the model.
WORKER_BYTES = 1_500_000_000


class Workers(Protocol):
    """Processes that make a run's shards."""

    def start(self, run: Path) -> None:
        """Begin; the run's folder holds the work order."""
        ...

    def working(self, whole: bool) -> bool:
        """Whether any is still running; UserError when one has failed for good.

        whole: whether every shard is there.
        """
        ...

    def stop(self) -> None:
        """End those that are left."""
        ...


@dataclass
class _Slot:
    """One worker's place: its process, and how often it failed without making anything."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    sign_bytes: int = 0


@dataclass
class LocalWorkers:
    """Processes on this machine: one thread each, or a GPU each.

    count: 0 starts none, so that workers elsewhere make everything (`sunbench work`).
    command: what is started, with the run's folder and the file for signs of life after it.
    """

    count: int
    device: str = "cpu"
    threads: int = 1
    command: Sequence[str] = (sys.executable, "-m", "sunbench", "work")
    failures: int = FAILURES
    _slots: list[_Slot] = field(default_factory=list)
    _run: Path = Path()

    def start(self, run: Path) -> None:
        """Start every worker."""
        self._run = run
        self._slots = [_Slot(i) for i in range(self.count)]
        for slot in self._slots:
            self._signs(slot).unlink(missing_ok=True)
            self._start(slot)

    def working(self, whole: bool) -> bool:
        """Replace the workers that died; whether any is still running."""
        if not self.count:
            return not whole
        going = False
        for slot in self._slots:
            assert slot.process is not None
            code = slot.process.poll()
            if code is None:
                going = True
            elif code != 0:
                self._failed(slot, code)
                self._start(slot)
                going = True
        return going

    def stop(self) -> None:
        """End the workers that are left."""
        alive = [s.process for s in self._slots if s.process and s.process.poll() is None]
        for process in alive:
            process.terminate()
        for process in alive:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def pids(self) -> list[int]:
        """Process numbers of the workers that are alive."""
        return [s.process.pid for s in self._slots if s.process and s.process.poll() is None]

    # -------------------------------------------------------------------------- one worker

    def _start(self, slot: _Slot) -> None:
        command = [*self.command, str(self._run), "--signs", str(self._signs(slot))]
        if torch.device(self.device).type == "cuda":  # each sees one, whatever its number was
            command += ["--device", "cuda"]
        with self._log(slot).open("ab") as log:
            slot.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment(slot),
            )

    def _failed(self, slot: _Slot, code: int) -> None:
        """Count a failure; UserError with the worker's own words at the last one."""
        size = self._signs(slot).stat().st_size if self._signs(slot).exists() else 0
        slot.failures = 1 if size > slot.sign_bytes else slot.failures + 1
        slot.sign_bytes = size
        if slot.failures >= self.failures:
            lines = self._log(slot).read_text(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"exit code {code}"
            raise UserError(
                f"worker {slot.number} failed {slot.failures} times: {why} (see {self._log(slot)})"
            )

    def _environment(self, slot: _Slot) -> dict[str, str]:
        """The worker's share of the machine."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if torch.device(self.device).type != "cuda":
            return {**os.environ, **threads}
        own = gpus[slot.number] if slot.number < len(gpus) and gpus[0] else str(slot.number)
        return {**os.environ, "CUDA_VISIBLE_DEVICES": own}

    def _log(self, slot: _Slot) -> Path:
        return self._run / "work" / f"worker-{slot.number}.log"

    def _signs(self, slot: _Slot) -> Path:
        return self._run / "work" / f"worker-{slot.number}.signs"


# ------------------------------------------------------------------------------ how many


def automatic(plans: Sequence[ModelPlan], device: str, run: Path) -> LocalWorkers | None:
    """Workers for what a plan has left to do; None where one process is as good.

    A process per GPU; on CPU a single-threaded one per core, or as many as memory has room for,
    which then share the cores.
    """
    cells = [(c, m.seconds_per_nfe) for m in plans for c in m.whole.cells if c.skip is None]
    missing = {c.place: c.cell.shards - shards_of(run, c) for c, _ in cells}
    seconds = sum(c.planned_nfe * s * missing[c.place] / c.cell.shards for c, s in cells)
    most = sum(missing.values())
    if most < 2 or seconds < WORTH_SECONDS:
        return None
    if torch.device(device).type == "cuda":
        count = min(torch.cuda.device_count(), most)
        return LocalWorkers(count, device) if count > 1 else None
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    room = psutil.virtual_memory().available // (WORKER_BYTES + 2 * max(map(weight_bytes, plans)))
    count = max(1, min(cores, room, most))
    return LocalWorkers(count, device, threads=max(1, cores // count)) if count > 1 else None


def weight_bytes(model: ModelPlan) -> int:
    """Bytes of a planned model's networks, 0 where it is not loaded."""
    if model.loaded is None:
        return 0
    parts = model.loaded.pipeline.components.values()
    networks = [x for x in parts if isinstance(x, torch.nn.Module)]
    return sum(p.numel() * p.element_size() for x in networks for p in x.parameters())


# ------------------------------------------------------------------------------ watching


class Watch:
    """Tells a progress how many shards all workers together have made."""

    def __init__(self, run: Path, plans: Sequence[ModelPlan], progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.cells = [c for p in plans for c in p.whole.cells if c.skip is None]
        self.images = dict.fromkeys((c.place for c in self.cells), 0)
        self.named: PlannedCell | None = None

    def look(self, stored: bool = False) -> bool:
        """Count what is there now; whether every shard is, of cells that can be made.

        stored: it was there before the run.
        """
        left = [c for c in self.cells if not self._whole(c, stored)]
        if left and left[0] is not self.named:
            self.named = left[0]
            self.progress.cell(left[0])
        return not left

    def _whole(self, planned: PlannedCell, stored: bool) -> bool:
        """Tell of a cell's new images; whether it has all."""
        there = shards_of(self.run, planned)
        images = planned.cell.images * there // planned.cell.shards
        if (more := images - self.images[planned.place]) > 0:
            self.progress.advance(more * planned.evaluations, stored)
            self.images[planned.place] = images
        return there >= planned.cell.shards or skip_file(self.run, planned.key).exists()


def shards_of(run: Path, planned: PlannedCell) -> int:
    """Shards of a cell that were committed; their files are not checked."""
    with contextlib.suppress(FileNotFoundError):
        names = [e.name for e in os.scandir(cell_folder(run, planned.role, planned.key))]
        return sum(n.startswith("shard-") and n.endswith(".json") for n in names)
    return 0


def shards_there(run: Path, plans: Sequence[ModelPlan]) -> int:
    """Shards of all cells of a plan that were committed."""
    return sum(shards_of(run, c) for p in plans for c in p.whole.cells if c.skip is None)


def make_all(
    workers: Workers, run: RunFolder, plans: Sequence[ModelPlan], progress: Progress
) -> None:
    """Let workers make the shards of a plan and their features, until they are done."""
    watch = Watch(run.path, plans, progress)
    watch.look(stored=True)
    workers.start(run.path)
    try:
        while workers.working(watch.look()):
            time.sleep(WATCH)
    finally:
        workers.stop()
    watch.look()
    shutil.rmtree(file_of(run.path).parent, ignore_errors=True)  # logs of workers that did well
