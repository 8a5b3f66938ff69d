"""Workers: the same results from any number of them, whatever dies; each shard made once."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sunbench.bench.claim import claim
from sunbench.bench.clock import Clock
from sunbench.bench.order import WorkOrder
from sunbench.bench.outcome import Outcome
from sunbench.bench.planner import plan
from sunbench.bench.progress import NoProgress
from sunbench.bench.ray_workers import RayWorkers, check_device
from sunbench.bench.run import RunAtWork, execute
from sunbench.bench.work import work
from sunbench.bench.workers import LocalWorkers, automatic
from sunbench.cli.work import parse_workers
from sunbench.errors import UserError
from sunbench.store import RunFolder
from sunbench.store.locks import Holder

SMALL: dict[str, Any] = {"methods": ("ddim",), "steps": (2,), "images": 16, "timing": "none"}
WORKER = Path(__file__).parents[1] / "support/lab_worker.py"


def local(lab: Any, count: int, *more: str) -> LocalWorkers:
    command = (sys.executable, str(WORKER), str(lab.world.card.parent))
    return LocalWorkers(count, command=(*command, *more) if more else command)


def run(
    lab: Any,
    name: str,
    workers: Any,
    monkeypatch: pytest.MonkeyPatch,
    progress: Any = None,
) -> Any:
    """A run in a cache of its own."""
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.out / f"{name}-cache"))
    with one_thread():
        return execute(lab.request(**SMALL), lab.out / name, progress, workers=workers)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def results(lab: Any, name: str) -> bytes:
    return RunFolder(lab.out / name).results_file.read_bytes()


def manifests(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("shard-?????.json")}


class Counted:
    """A progress that adds up evaluations."""

    def __init__(self) -> None:
        self.total, self.planned_nfe, self.cells = 0, 0, list[str]()

    def planned(self, plans: Any, bytes_needed: int) -> None:
        self.planned_nfe = sum(p.nfe for p in plans)

    def cell(self, planned: Any) -> None:
        self.cells.append(planned.role)

    def advance(self, nfe: int, stored: bool = False) -> None:
        self.total += nfe


def test_one_two_and_killed_workers_give_the_same_bytes(lab: Any, monkeypatch: pytest.MonkeyPatch):
    alone = run(lab, "one", None, monkeypatch)
    progress = Counted()
    two = run(lab, "two", local(lab, 2), monkeypatch, progress)
    killed = run(lab, "killed", local(lab, 2, "--die", "9"), monkeypatch)
    assert alone.new_shards == two.new_shards == killed.new_shards == 3 * 4
    assert len(set(results(lab, n) for n in ("one", "two", "killed"))) == 1
    for kind in ("", "-cache"):
        assert (
            manifests(lab.out / f"one{kind}")
            == manifests(lab.out / f"two{kind}")
            == manifests(lab.out / f"killed{kind}")
        )
    assert not (lab.out / "two/work").exists()
    assert not (lab.out / "two/texts").exists()
    assert list((lab.out / "killed-cache/claims").iterdir()) == []
    # the progress of the run counts all workers: reference and floor in five steps, DDIM in two
    assert progress.total == progress.planned_nfe == 16 * 2 * (5 + 5 + 2)
    assert progress.cells[0] == "reference"


def started(lab: Any, name: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    """A run of which nothing is made: its request, folder, cells and runner."""
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.out / f"{name}-cache"))
    request, folder = lab.request(**SMALL, **more), RunFolder(lab.out / name)
    claim(folder.path)
    (model,) = plan(request)
    runner = RunAtWork(request, folder, NoProgress()).runner_for(model, Clock(), Outcome())
    return SimpleNamespace(request=request, out=folder.path, cells=model.cells, runner=runner)


def test_a_worker_samples_while_another_makes_the_reference_and_pairs_later(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    run(lab, "alone", None, monkeypatch)
    begun = started(lab, "early", monkeypatch)
    reference, floor, candidate = begun.cells
    runner = begun.runner
    of = runner.handle(reference)
    scores = set(runner.extractors.paired_names(of.settings_key).values())

    def scored() -> bool:
        return scores <= set(runner.handle(candidate).store.feature_names(0))

    with one_thread():
        assert runner.help(candidate, of) == 4  # every shard waits for its reference
        assert runner.new_shards == 0
        assert runner.help(candidate, of, before_reference=True) == 4
        assert runner.new_shards == 4
        assert not scored()
        assert runner.help(reference) == runner.help(floor, of) == 0
        assert runner.help(candidate, of, before_reference=True) == 0
        assert runner.new_shards == 3 * 4
        assert scored()
        execute(begun.request, begun.out)
    assert results(lab, "early") == results(lab, "alone")
    assert manifests(lab.out / "early") == manifests(lab.out / "alone")


def test_without_kept_images_nothing_is_sampled_before_its_reference(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    begun = started(lab, "no-images", monkeypatch, keep_images=False)
    reference, _, candidate = begun.cells
    of = begun.runner.handle(reference)
    assert begun.runner.help(candidate, of, before_reference=True) == 4
    assert begun.runner.new_shards == 0


def test_what_a_worker_killed_before_publishing_left_is_published_by_the_next(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    run(lab, "first", None, monkeypatch)
    cache = lab.out / "first-cache"
    published = sorted((cache / "shards").glob("*.json"))
    reference = next(f for f in published if str(cache) in f.read_text())  # kept in the cache
    content = reference.read_bytes()
    reference.unlink()
    dead = asdict(Holder(2**22 + 1, socket.gethostname(), 0.0))
    (cache / "claims" / reference.stem).write_text(json.dumps(dead))
    monkeypatch.setenv("SUNBENCH_CACHE", str(cache))
    again = execute(lab.request(**SMALL), lab.out / "second")
    assert again.new_shards == 0
    assert reference.read_bytes() == content
    assert list((cache / "claims").iterdir()) == []


def test_a_worker_that_fails_three_times_stops_the_run_with_its_words(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    broken = LocalWorkers(1, command=(sys.executable, "-c", "import sys; sys.exit('no room')"))
    with pytest.raises(UserError, match=r"worker 0 failed 3 times: no room \(see .*worker-0.log"):
        run(lab, "run", broken, monkeypatch)
    assert not (lab.out / "run/lock").exists()


def test_a_folder_without_a_run_is_no_work(tmp_path: Path):
    with pytest.raises(
        UserError, match="no run is in progress, expected the folder of one: start it"
    ):
        work(tmp_path)


def test_a_worker_of_other_weights_or_version_is_refused(lab: Any, monkeypatch: pytest.MonkeyPatch):
    request = lab.request(**SMALL)
    plans = plan(request)
    order = WorkOrder.of(request, None, plans)
    order.check(plans)
    with RunFolder(lab.out / "run").lock():
        order.write(lab.out / "run")
        assert WorkOrder.read(lab.out / "run") == order
    weights = {n: h if n != "unet" else "0" * 64 for n, h in plans[0].loaded.hashes.items()}
    plans[0].loaded.hashes.update(weights)
    from sunbench.bench.cells import plan_model

    plans[0].cells = plan_model(plans[0].loaded, plans[0].prompts, request)
    with pytest.raises(UserError, match=r"is none of the run's; they differ in weights"):
        order.check(plans)
    monkeypatch.setattr("sunbench.bench.order.__version__", "9")
    with pytest.raises(UserError, match="given sunbench 9, expected the run's"):
        order.check(plans)


def test_auto_is_a_thread_per_core_and_nothing_for_short_work(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    plans = plan(lab.request(**SMALL))
    assert automatic(plans, "cpu", lab.out) is None
    monkeypatch.setattr("sunbench.bench.workers.WORTH_SECONDS", 0.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    memory = type("Memory", (), {"available": 1 << 40})
    monkeypatch.setattr("sunbench.bench.workers.psutil.virtual_memory", lambda: memory)
    four = automatic(plans, "cpu", lab.out)
    assert four is not None
    assert (four.count, four.threads) == (4, 1)
    memory.available = 2 * 1_600_000_000
    two = automatic(plans, "cpu", lab.out)
    assert two is not None
    assert (two.count, two.threads) == (2, 2)
    memory.available = 1
    assert automatic(plans, "cpu", lab.out) is None


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "", "ray:x", "99999"])
def test_wrong_workers_are_one_clear_line(text: str):
    with pytest.raises(UserError, match=r"given workers .*, expected auto, a number"):
        parse_workers(text, "cpu")


def test_workers_by_name():
    assert parse_workers("auto", "cpu") == "auto"
    assert parse_workers("1", "cpu") is None
    assert parse_workers("3", "cpu").count == 3
    assert parse_workers("ray", "cpu").address is None
    assert parse_workers("ray://head:10001", "cpu").address == "ray://head:10001"


# ------------------------------------------------------------------------------ Ray


def test_without_ray_the_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'sunbench\[ray\]'"):
        RayWorkers("cpu", tmp_path).start(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("ray client connection timeout"),
        ValueError("Ray Client requires pip package `ray[client]`.\nReinstall."),
        RuntimeError("Version mismatch: The cluster was started with\nRay: 2.40"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def init(**settings: Any) -> None:
        raise error

    absent = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", absent)
    workers = RayWorkers("cpu", tmp_path, address="ray://head:10001")
    with pytest.raises(UserError, match="given --workers ray://head:10001, expected") as caught:
        workers.start(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(error).splitlines()[0] in str(caught.value)


def test_an_actor_must_see_its_one_gpu():
    check_device("cpu", [])
    with pytest.raises(UserError, match="expected exactly one"):
        check_device("cuda", [])


@pytest.mark.slow
def test_ray_actors_give_the_same_bytes(lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ray = pytest.importorskip("ray")
    run(lab, "one", None, monkeypatch)
    support = str(WORKER.parent)
    monkeypatch.setenv("SUNBENCH_CACHE", str(lab.out / "ray-cache"))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "env_vars": {"PYTHONPATH": support, "LAB_WORLD": str(lab.world.card.parent)},
            "worker_process_setup_hook": "lab_worker.settle_here",
        },
    )
    try:
        workers = RayWorkers("cpu", lab.out / "ray-cache")
        execute(lab.request(**SMALL), lab.out / "ray", workers=workers)
    finally:
        ray.shutdown()
    assert results(lab, "ray") == results(lab, "one")
