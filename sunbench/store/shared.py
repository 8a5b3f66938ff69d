"""Shards by their own content: where each is kept, and whose turn it is to make it.

Every folder of a cell that holds a shard is named in the cache under the shard's key, so that
another run, over more prompts or seeds, takes it over by hard links instead of sampling it again.
A name that leads nowhere any more is forgotten; the cache keeps no second copy of anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from sunbench.errors import UserError
from sunbench.store.cells import CellStore
from sunbench.store.claims import Claims
from sunbench.store.files import (
    key,
    make_folder,
    read_versioned,
    remove_parts,
    to_json,
    write_atomic,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


def settings_key(content: Mapping[str, object]) -> str:
    """Key of a cell's content without prompts and seeds: of all that its shards share."""
    return key({n: v for n, v in content.items() if n not in ("prompts", "seeds")})


def shard_key(
    content: Mapping[str, object], prompts: Iterable[tuple[str, str, str]], seed: int, images: bool
) -> str:
    """Key of a shard: the cell's settings, its own prompts (id, text, negative prompt), its seed.

    images: whether they are kept.
    """
    settings = {n: v for n, v in content.items() if n not in ("prompts", "seeds")}
    return key([settings, [list(p) for p in prompts], seed, images])


class SharedShards:
    """The shards of all runs that use one cache."""

    def __init__(self, cache: Path, claims: Claims | None = None) -> None:
        self.places = cache / "shards"
        self.claims = Claims(cache / "claims") if claims is None else claims
        for folder in (self.places, self.claims.folder):
            remove_parts(folder)

    def publish(self, name: str, store: CellStore, index: int) -> None:
        """Let others find a shard that is whole now."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "folder": str(store.folder.resolve()),
            "shard": index,
        }
        make_folder(self.places)
        write_atomic(self._file(name), to_json(document))

    def adopt(self, name: str, store: CellStore, index: int, numbers: range) -> bool:
        """Take a shard of this key over into a cell, where one is whole; numbers: of its images."""
        try:
            place = read_versioned(self._file(name), SCHEMA_VERSION, "`sunbench run`")
            folder, there = Path(place["folder"]), int(place["shard"])
            if folder == store.folder.resolve():
                return False
            other = CellStore.open(folder, repair=False)
            if other.manifest(there).get("shard") != name:
                raise UserError(f"{folder}: its shard {there} is another")
            store.adopt(index, other, there, numbers)
        except (UserError, KeyError, TypeError, ValueError, OSError) as error:
            if self._file(name).exists():
                log.info("%s", error)
                with suppress(OSError):
                    self._file(name).unlink()
            return False
        return True

    def _file(self, name: str) -> Path:
        return self.places / f"{name}.json"
