"""A shard's manifest: the list of its files with their checksums, and its own checksum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

from sunbench.errors import UserError
from sunbench.store.files import key, parse_json, to_json
from sunbench.store.names import file_stem

SCHEMA_VERSION = 1


class FileEntry(TypedDict):
    """A file of a shard: name, checksum and size."""

    file: str
    sha256: str
    bytes: int


class ShardFiles(TypedDict):
    """What a shard consists of: number of rows, image number of the first, its files.

    shard: the key of its own content.
    """

    rows: int
    first: int
    images: FileEntry
    features: dict[str, FileEntry]
    shard: NotRequired[str]


def stem(index: int) -> str:
    """What the names of a shard's files begin with."""
    return f"shard-{index:05d}"


def feature_file(index: int, name: str) -> str:
    """File of a feature."""
    return f"{stem(index)}.{file_stem(name)}.safetensors"


def manifest_files(manifest: ShardFiles) -> list[FileEntry]:
    """The files of a shard."""
    return [manifest["images"], *manifest["features"].values()]


def seal(body: ShardFiles, cell: str, index: int) -> bytes:
    """A manifest as bytes, with what it belongs to and its own checksum."""
    place = {"schema_version": SCHEMA_VERSION, "cell": cell, "index": index}
    document: dict[str, object] = {**body, **place}
    document.pop("check", None)
    return to_json(document | {"check": key(document)})


def unseal(data: bytes, name: str, cell: str, index: int) -> ShardFiles:
    """The manifest in these bytes; UserError when it is broken or speaks of another shard."""
    manifest = parse_json(data, name)
    if manifest.pop("check", None) != key(manifest):
        raise UserError(f"{name} does not match its own checksum")
    place = manifest.get("schema_version"), manifest.get("cell"), manifest.get("index")
    expected = SCHEMA_VERSION, cell, index
    if place != expected:
        raise UserError(f"{name}: given version, cell, shard {place}, expected {expected}")
    return cast(ShardFiles, manifest)


def differences(held: object, expected: Mapping[str, object]) -> str:
    """Names of the top-level settings in which two cells differ."""
    if not isinstance(held, dict):
        return "everything"
    names = sorted(held.keys() | expected.keys())
    return ", ".join(n for n in names if held.get(n) != expected.get(n)) or "their spelling"
