"""Cards of published weights, which stand in a method's folder."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from sunbench.store.files import JsonObject, read_toml


@cache
def published_cards(package: str) -> dict[str, JsonObject]:
    """The cards of a package of ``sunbench.methods``, its ``cards.toml``, by method."""
    return read_toml(Path(str(files(f"sunbench.methods.{package}").joinpath("cards.toml"))))
