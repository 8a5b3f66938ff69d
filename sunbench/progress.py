"""What a person sees of a run: the plan, then how far it is and the time left."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sunbench.store.files import human

if TYPE_CHECKING:
    from sunbench.bench.cells import PlannedCell
    from sunbench.bench.planner import ModelPlan

#: Seconds between two lines of a log.
LOG_SECONDS = 10.0
#: The time left is from the speed of the last so many updates.
WINDOW = 64


class TimeLeft:
    """Expected seconds to the end, from the plan at first and from the measured speed after.

    Work is counted in planned seconds, so that models of different cost share one clock. What was
    stored before says nothing about the speed.
    """

    def __init__(self, planned_seconds: float) -> None:
        self.total = planned_seconds
        self.done = 0.0
        self.points: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)], maxlen=WINDOW)

    def advance(
        self, planned_seconds: float, at: float | None = None, stored: bool = False
    ) -> None:
        """So much of the plan is done now; stored: it was before the run."""
        self.done += planned_seconds
        if not stored:
            worked = self.points[-1][1] + planned_seconds
            self.points.append((time.monotonic() if at is None else at, worked))

    @property
    def seconds(self) -> float:
        """Seconds left."""
        (start, before), (end, after) = self.points[0], self.points[-1]
        left = max(0.0, self.total - self.done)
        return left * (end - start) / (after - before) if after > before else left


class ConsoleProgress:
    """Prints the plan and follows it by U-Net evaluations: a bar, or lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.task: TaskID | None = None
        self.time_left = TimeLeft(0.0)
        self.seconds_per_nfe: dict[str, float] = {}
        self.label, self.model, self.logged = "starting", "", 0.0

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.task is not None:
            self.bar.stop()

    def print_plan(self, plans: list[ModelPlan], bytes_needed: int) -> None:
        """Print the cells, their images, NFE, expected time and disk."""
        table = Table(title="plan", title_justify="left", header_style="bold")
        for column in ("model", "role", "method"):
            table.add_column(column, overflow="fold")
        for column in ("steps", "images", "NFE"):
            table.add_column(column, justify="right")
        for model in plans:
            for p in model.cells:
                c = p.cell
                row = [c.model, p.role, c.method, str(c.steps), str(c.images)]
                if p.skip is None:
                    table.add_row(*map(Text, [*row, f"{p.planned_nfe:,}"]))
        total = sum(m.nfe for m in plans)
        images = sum(p.cell.images for m in plans for p in m.cells if p.skip is None)
        seconds = sum(m.seconds for m in plans)
        self.console.print(table)
        for line in [*skipped_lines(plans), *(line for m in plans for line in m.not_pinned)]:
            self.console.print(Text(line), soft_wrap=True)
        self.console.print(
            f"{images:,} images, {total:,} U-Net evaluations, about {duration(seconds)} if nothing"
            f" is stored yet, at most {human(bytes_needed)} of disk"
        )
        for model in plans:
            if model.power:
                self.console.print(Text(model.power), soft_wrap=True)

    def planned(self, plans: list[ModelPlan], bytes_needed: int) -> None:
        """Print the plan; start the bar."""
        self.print_plan(plans, bytes_needed)
        self.seconds_per_nfe = {
            p.cell.model: m.seconds_per_nfe or 1e-9 for m in plans for p in m.cells
        }
        self.time_left = TimeLeft(sum(m.nfe * (m.seconds_per_nfe or 1e-9) for m in plans))
        if self.console.is_terminal:
            self.task = self.bar.add_task("starting", total=self.time_left.total, left="")
            self.bar.start()

    def cell(self, planned: PlannedCell) -> None:
        """Name the current cell."""
        self.label, self.model = planned.cell.label, planned.cell.model
        if self.task is not None:
            self.bar.update(self.task, description=escape(self.label))
        else:
            self._log()

    def stage(self, text: str) -> None:
        """Name what comes next: a timing pass, statistics."""
        if self.task is not None:
            self.bar.update(self.task, description=escape(text), left="")
        else:
            self.console.print(Text(text), soft_wrap=True)

    def advance(self, nfe: int, stored: bool = False) -> None:
        """Move on by so many U-Net evaluations of the current cell."""
        seconds = nfe * self.seconds_per_nfe.get(self.model, 1e-9)
        self.time_left.advance(seconds, stored=stored)
        if self.task is not None:
            left = f"{duration(self.time_left.seconds)} left"
            self.bar.update(self.task, advance=seconds, left=left)
        elif time.monotonic() - self.logged > LOG_SECONDS:
            self._log()

    def _log(self) -> None:
        self.logged = time.monotonic()
        done = self.time_left.done / self.time_left.total if self.time_left.total else 0.0
        left = duration(self.time_left.seconds)
        self.console.print(
            Text(f"{self.label}: {100 * done:.0f} % done, {left} left"), soft_wrap=True
        )


def skipped_lines(plans: list[ModelPlan]) -> list[str]:
    """A line for each reason why cells are left out, with the models that it holds for."""
    models: dict[str, list[str]] = {}
    for model in plans:
        for p in model.cells:
            if p.skip is not None and p.cell.model not in models.setdefault(p.skip, []):
                models[p.skip].append(p.cell.model)
    return [f"left out on {', '.join(names)}: {reason}" for reason, names in models.items()]


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
