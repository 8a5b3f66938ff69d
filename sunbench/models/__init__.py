"""Models: cards that name them, and the one way to load them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .card import ModelCard, read_card, to_toml
from .catalogue import cards, find_model
from .context import ModelContext

if TYPE_CHECKING:
    from .loading import LoadedModel, channels_last, load

__all__ = [
    "LoadedModel",
    "ModelCard",
    "ModelContext",
    "cards",
    "channels_last",
    "find_model",
    "load",
    "read_card",
    "to_toml",
]


def __getattr__(name: str) -> Any:
    """Give what loads models on first use, so that listing models imports no torch."""
    if name in ("load", "LoadedModel", "channels_last"):
        from . import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
