"""What ``sunbench train METHOD`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sunbench.errors import UserError


@dataclass(frozen=True)
class TrainRequest:
    """A training of one method beside a base.

    method: its name. base: a model's name, hub id, folder or file. out: the training's folder.
    config: TOML over the settings; data: a spec of images; start: weights of the method to begin
    with.
    """

    method: str
    base: str
    out: Path
    config: Path | None = None
    data: str | None = None
    device: str = "cpu"
    start: str | None = None

    def refuse_start(self, beginning: str) -> None:
        """UserError for weights to begin with; beginning: where the method starts instead."""
        if self.start is not None:
            raise UserError(
                f"given --from {self.start!r}: {self.method} {beginning}, expected none"
            )
