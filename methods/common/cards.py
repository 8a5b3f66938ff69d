"""Cards of published weights, which stand in a method's folder."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sunbench.store.files import read_toml


@cache
def published_cards(package: str) -> dict[str, dict[str, Any]]:
    """The cards of a package of ``sunbench.methods``, its ``cards.toml``, by method."""
    return read_toml(Path(str(files(f"sunbench.methods.{package}").joinpath("cards.toml"))))
