"""Clocks, load and memory of the machine."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest
import torch

from sunbench.sampling.stopwatch import ModuleTimer, Stopwatch
from sunbench.timing import machine
from sunbench.timing.machine import LoadMeter, available_cpus, device_name
from sunbench.timing.memory import memory_kind, peak_bytes

CPU = torch.device("cpu")
Times = namedtuple("Times", "user nice system idle iowait guest guest_nice")


def test_only_other_processes_count_as_load(monkeypatch: pytest.MonkeyPatch):
    clock, own = [0.0], [0.0]
    others = [Times(1, 0, 0, 9, 5, 0, 0), Times(2, 0, 1, 9, 5, 1, 0)]
    monkeypatch.setattr(machine, "available_cpus", lambda: [0, 1])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda percpu: others)
    times = lambda: SimpleNamespace(user=own[0], system=0.0)  # noqa: E731
    monkeypatch.setattr(machine.psutil, "Process", lambda: SimpleNamespace(cpu_times=times))
    meter = LoadMeter.start()
    clock[0], own[0] = 10.0, 8.0
    others[0] = others[0]._replace(user=9, idle=11)  # our 8 seconds
    others[1] = others[1]._replace(user=7, idle=12, guest=3)  # 5 of others, 2 of them a guest's
    assert meter.other_cpus() == pytest.approx(0.5)


def test_our_own_work_is_not_other_load():
    meter, until = LoadMeter.start(), time.process_time() + 0.3
    while time.process_time() < until:
        pass
    quiet = meter.other_cpus()
    assert 0 <= quiet <= len(available_cpus())


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="needs CPU affinity")
def test_another_process_at_work_is_seen():
    program = "import time\nend = time.process_time() + 5\nwhile time.process_time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        before = psutil.Process(other.pid).cpu_times().user
        meter = LoadMeter.start()
        time.sleep(1.0)
        used = psutil.Process(other.pid).cpu_times().user - before
        seen = meter.other_cpus()
        other.kill()
    assert seen > 0.5 * used


def test_the_processor_has_a_name():
    assert device_name(CPU)


def test_peak_memory_is_that_of_the_work():
    size = 256 * 2**20
    quiet = peak_bytes(CPU, lambda: None)
    if quiet is None:
        pytest.skip("the system does not tell")

    def work() -> None:
        with mmap.mmap(-1, size) as block:  # goes back to the system at once
            for page in range(0, size, mmap.PAGESIZE):
                block[page] = 1

    busy = peak_bytes(CPU, work)
    after = peak_bytes(CPU, lambda: None)
    assert busy - quiet > 0.9 * size
    assert after < quiet + 0.5 * size
    assert memory_kind(CPU) == "rss"


def test_a_module_timer_counts_the_module_alone():
    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return x

    slow, began = Slow(), time.perf_counter()
    with ModuleTimer(slow, Stopwatch(CPU)) as timer:
        slow(torch.zeros(1))
        time.sleep(0.05)
        slow(torch.zeros(1))
    assert 0.04 <= timer.seconds <= time.perf_counter() - began - 0.05
    slow(torch.zeros(1))
    assert len(slow._forward_hooks) == 0
