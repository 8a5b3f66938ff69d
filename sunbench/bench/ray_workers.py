"""Workers on a Ray cluster: an actor per device, each in the loop of `sunbench.bench.work`.

Paths and keys go through Ray's object store, images never do: every host sees the run's folder and
the cache on a shared file system.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sunbench.errors import UserError

#: How often Ray starts a dead actor again, and its work with it.
RESTARTS = 3


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "given --workers ray, but Ray is not installed; pip install 'sunbench[ray]'"
        ) from error
    return ray


def check_device(device: str, gpus: list[Any]) -> None:
    """UserError unless an actor sees the one device that it was promised."""
    if torch.device(device).type != "cuda":
        return
    seen = torch.cuda.device_count()
    if seen != 1 or len(gpus) != 1:
        raise UserError(
            f"given an actor with GPUs {gpus} that sees {seen} of them, expected exactly one"
        )


class ShardActor:
    """A worker inside a Ray actor."""

    def __init__(self, device: str, cache: str) -> None:
        os.environ["SUNBENCH_CACHE"] = cache
        self.device = device

    def work(self, run: str) -> int:
        """Make shards of the run in progress in a folder; how many were made."""
        import ray

        from sunbench.bench.work import work

        if torch.device(self.device).type == "cpu":
            torch.set_num_threads(1)
        check_device(self.device, list(ray.get_gpu_ids()))
        return work(Path(run), device=self.device)


@dataclass
class RayWorkers:
    """Actors on a Ray cluster: one per GPU, or per CPU where there are none.

    address: of the cluster; None is the one of this machine, started where there is none.
    count: of actors; None takes what the cluster has.
    """

    device: str
    cache: Path
    address: str | None = None
    count: int | None = None
    runtime_env: dict[str, Any] = field(default_factory=dict)
    _tasks: list[Any] = field(default_factory=list)
    _actors: list[Any] = field(default_factory=list)

    def start(self, run: Path) -> None:
        """Connect, and set an actor to work on every device."""
        ray = _ray()
        if not ray.is_initialized():
            self._connect(ray)
        cuda = torch.device(self.device).type == "cuda"
        held = int(ray.cluster_resources().get("GPU" if cuda else "CPU", 0))
        if held < 1:
            raise UserError(
                f"given a Ray cluster without a {'GPU' if cuda else 'CPU'}, expected one"
            )
        actor = ray.remote(ShardActor).options(
            num_cpus=1, num_gpus=int(cuda), max_restarts=RESTARTS, max_task_retries=RESTARTS
        )
        count = held if self.count is None else min(self.count, held)
        place = (self.device, str(self.cache.resolve()))
        self._actors = [actor.remote(*place) for _ in range(count)]
        self._tasks = [a.work.remote(str(run.resolve())) for a in self._actors]

    def _connect(self, ray: Any) -> None:
        try:
            ray.init(address=self.address, log_to_driver=False, runtime_env=self.runtime_env)
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"given --workers {self.address or 'ray'}, expected a Ray cluster there ({reason})"
            ) from error

    def working(self, whole: bool) -> bool:
        """Whether an actor is still running; UserError with the words of one that failed."""
        ray = _ray()
        done, self._tasks = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in done:
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                lines = str(cause).strip().splitlines() or [type(cause).__name__]
                raise UserError(f"a Ray worker failed: {lines[-1]}") from error
        return bool(self._tasks)

    def stop(self) -> None:
        """End the actors."""
        ray = _ray()
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
