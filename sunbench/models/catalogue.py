"""From a name on the command line to a card; imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from sunbench.errors import UserError, unknown
from sunbench.store.tensors import refuse_pickle

from .card import ModelCard, read_card
from .checkpoint import architecture_of, file_shape, folder_shape
from .folder import folder_config

HUB = re.compile(
    r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<file>[\w./ ()+-]+))?", re.ASCII
)

LONGEST_ID = 96  # the hub's own limit


@dataclass(frozen=True)
class Place:
    """Where weights live: kind is "file", "folder" or "hub"; hub places may name one file."""

    kind: str
    id: str
    revision: str | None = None
    file: str | None = None


def place(spec: str, kind: str = "model") -> Place:
    """Read a file path, a folder path or `owner/name[@revision][:file.safetensors]`."""
    refuse_pickle(spec)
    path = os.path.expanduser(spec)
    if os.path.isdir(path):
        return Place("folder", path)
    if os.path.isfile(path):
        return Place("file", path)
    hub = HUB.fullmatch(spec)
    local_name = spec.endswith(".safetensors") and ":" not in spec
    if hub and not local_name and len(hub["repo"]) <= LONGEST_ID:
        return Place("hub", hub["repo"], hub["revision"], hub["file"])
    raise UserError(
        f"given {kind} {spec!r}, expected an existing folder or .safetensors file, "
        "or a hub id owner/name[@revision][:file.safetensors]"
    )


@cache
def _shipped() -> dict[str, ModelCard]:
    folder = Path(str(files("sunbench.models"))) / "cards"
    cards = (read_card(path) for path in sorted(folder.glob("*.toml")))
    return {card.name: card for card in cards}


def cards() -> dict[str, ModelCard]:
    """The cards that come with the package, by name."""
    return dict(_shipped())


def find_model(spec: str) -> ModelCard:
    """Give the card of a card name, a .toml card, a folder, a .safetensors file or a hub id.

    Raises UserError with the nearest match for a name that is none of these.
    """
    known = cards()
    if spec in known:
        return known[spec]
    if spec.endswith(".toml"):
        return read_card(Path(os.path.expanduser(spec)))
    if not spec.strip() or not re.search(r"[/\\:]|\.safetensors$", spec):
        return _bare(spec, known)
    source = place(spec)
    return {"file": _file_card, "folder": _folder_card, "hub": _hub_card}[source.kind](source)


def _bare(spec: str, known: dict[str, ModelCard]) -> ModelCard:
    refuse_pickle(spec)
    if spec.strip() and os.path.isdir(spec):
        return _folder_card(Place("folder", spec))
    raise unknown("model", spec, known)


def _file_card(source: Place) -> ModelCard:
    path = Path(source.id)
    architecture = architecture_of(file_shape(path), path.name)
    return ModelCard(path.stem, "file", str(path), architecture=architecture)


def _folder_card(source: Place) -> ModelCard:
    path = Path(source.id)
    shape = folder_shape(path)
    architecture = architecture_of(shape, str(path))
    size = folder_config(path, "unet").get("sample_size")
    blocks = len(folder_config(path, "vae").get("block_out_channels", [0] * 4))
    return ModelCard(
        path.resolve().name or "folder",
        "folder",
        str(path),
        architecture=architecture,
        prompts="zoo" if architecture == "zoo" else "general",
        resolution=size * 2 ** (blocks - 1) if isinstance(size, int) else 512,
    )


def _hub_card(source: Place) -> ModelCard:
    name = source.id if source.file is None else f"{source.id}:{source.file}"
    return ModelCard(name, "hub", name, revision=source.revision)
