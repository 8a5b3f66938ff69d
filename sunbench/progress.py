"""What a person sees of a run: the plan, then a bar with the time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sunbench.store.files import human

if TYPE_CHECKING:
    from sunbench.bench.layout import ModelPlan
    from sunbench.bench.plan import Planned


class RichWatcher:
    """Prints the plan and follows it by U-Net evaluations, the unit of cost."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> RichWatcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.task is not None:
            self.progress.stop()

    def planned(self, plans: list[ModelPlan], bytes_needed: int) -> None:
        """Print the cells, their images, NFE and disk; start the bar."""
        table = Table(title="plan", title_justify="left", header_style="bold")
        for column in ("model", "role", "method", "steps", "images", "NFE", "note"):
            table.add_column(column)
        for model in plans:
            for p in model.cells:
                c = p.cell
                row = [c.model, p.role, c.method, str(c.steps), str(c.images)]
                table.add_row(*row, f"{p.planned_nfe:,}", p.skip or "")
        total = sum(m.nfe for m in plans)
        images = sum(p.cell.images for m in plans for p in m.cells if p.skip is None)
        seconds = sum(m.seconds for m in plans)
        self.console.print(table)
        self.console.print(
            f"{images:,} images, {total:,} U-Net evaluations, about {_duration(seconds)} if nothing"
            f" is there yet, at most {human(bytes_needed)} of disk"
        )
        self.task = self.progress.add_task("starting", total=total)
        self.progress.start()

    def cell(self, planned: Planned) -> None:
        """Name the cell at work."""
        if self.task is not None:
            self.progress.update(self.task, description=planned.cell.label)

    def advance(self, nfe: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.progress.advance(self.task, nfe)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
