"""What can be trained, by name: the rows of the registry that have a trainer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from sunbench.errors import unknown
from sunbench.registry import METHODS

#: Method -> "module:callable".
TRAINERS: dict[str, str] = {name: e.trainer for name, e in METHODS.items() if e.trainer}


class Trainer(Protocol):
    """``sunbench train METHOD``."""

    def __call__(
        self,
        base: str,
        out: Path,
        config: Path | None,
        data: str | None,
        device: str,
        start: str | None = None,
    ) -> Path:
        """Train on a base (a card's name, ...), in ``out``; returns the weights.

        config: TOML over the settings; data: a spec of images; start: weights to begin with.
        """
        ...


def trainer(name: str) -> Trainer:
    """The training of that name; ``UserError`` with the nearest match for an unknown one."""
    if name not in TRAINERS:
        raise unknown("training", name, TRAINERS)
    module, _, attribute = TRAINERS[name].partition(":")
    return cast(Trainer, getattr(import_module(module), attribute))
