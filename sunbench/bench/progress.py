"""Who is told how a run goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sunbench.bench.cells import PlannedCell
    from sunbench.bench.planner import ModelPlan


class Progress(Protocol):
    """Who is told how a run goes."""

    def planned(self, plans: list[ModelPlan], bytes_needed: int) -> None:
        """The whole plan, before anything is made."""

    def cell(self, planned: PlannedCell) -> None:
        """A cell begins."""

    def advance(self, nfe: int, stored: bool = False) -> None:
        """So many U-Net evaluations of the plan are done; stored: they were before the run."""

    def stage(self, text: str) -> None:
        """Something else than a cell begins: a timing pass, statistics."""


class NoProgress:
    """Nobody is told."""

    def planned(self, plans: list[ModelPlan], bytes_needed: int) -> None:
        """Ignore."""

    def cell(self, planned: PlannedCell) -> None:
        """Ignore."""

    def advance(self, nfe: int, stored: bool = False) -> None:
        """Ignore."""

    def stage(self, text: str) -> None:
        """Ignore."""
