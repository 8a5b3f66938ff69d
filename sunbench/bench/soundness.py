"""What must hold in any run, whatever its numbers: pairing, seeds, noise, lossless pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sunbench.bench.per_image import Kept, Side
from sunbench.store import ShardRow, decode_picture

_PNG = b"\x89PNG\r\n\x1a\n"


def problems(side: Side) -> list[str]:
    """Why a run's numbers mean nothing, a line each; UserError for a missing or broken shard."""
    return [
        p for model in dict.fromkeys(r.model for r in side.rows) for p in _of_model(side, model)
    ]


def _of_model(side: Side, model: str) -> list[str]:
    kept = [Kept(c, side.path) for c in side.of_model(model)]
    rows = {id(k): k.rows() for k in kept}
    reference = next((k for k in kept if k.cell.role == "reference"), None)
    if reference is None:
        return [f"{model}: the run has no reference"]
    out = []
    for one in kept:
        lossless(one)
        out += own_rows(one, rows[id(one)])
        if one.cell.role == "floor":
            out += apart(one, rows[id(one)], reference, rows[id(reference)])
        else:
            out += paired(one, rows[id(one)], reference, rows[id(reference)])
    return out


def lossless(kept: Kept) -> None:
    """UserError naming the first stored picture that is not lossless; pixels are not decoded."""
    for k in kept.shards:
        file = kept.store.folder / kept.store.manifest(k)["images"]["file"]
        _check_bytes(file)


def _check_bytes(file: Path) -> None:
    with pq.ParquetFile(file) as table:
        for group in range(table.num_row_groups):
            pictures = table.read_row_group(group, columns=["image"]).column("image").to_pylist()
            for picture in pictures:
                if picture is not None and not picture["bytes"].startswith(_PNG):
                    decode_picture(picture["bytes"], f"{file}, {picture['path']}")


def own_rows(kept: Kept, rows: list[ShardRow]) -> list[str]:
    """The images of a cell are those that its content asks for, each from noise of its own."""
    label, seeds = kept.cell.label, kept.cell.content["seeds"]
    wrong = [r.index for i, r in enumerate(rows) if (r.index, r.seed) != (i, seeds[i % len(seeds)])]
    repeated = len(rows) - len({r.noise_hash for r in rows})
    out = [f"{label}, image {i}: its seed is not the one the cell asks for" for i in wrong[:1]]
    return out + [f"{label}: {repeated} images start from another image's noise"] * bool(repeated)


def paired(kept: Kept, rows: list[ShardRow], reference: Kept, theirs: list[ShardRow]) -> list[str]:
    """A candidate shows its reference's prompts from its reference's noise, in the same order."""
    label = kept.cell.label
    mine, other = kept.cell.content["seeds"], reference.cell.content["seeds"]
    if mine != other:
        return [f"{label}: seeds {mine}, expected its reference's {other}"]
    if len(rows) != len(theirs):
        return [f"{label}: {len(rows)} images, expected its reference's {len(theirs)}"]
    for a, b in zip(rows, theirs, strict=True):
        if (a.prompt_id, a.prompt, a.noise_hash) != (b.prompt_id, b.prompt, b.noise_hash):
            return [
                f"{label}, image {a.index}: prompt {a.prompt_id} from noise {a.noise_hash}, "
                f"expected its reference's prompt {b.prompt_id} from noise {b.noise_hash}"
            ]
    return []


def apart(kept: Kept, rows: list[ShardRow], reference: Kept, theirs: list[ShardRow]) -> list[str]:
    """A floor shares neither seeds, nor noise, nor pictures with the reference."""
    shared = sorted(set(kept.cell.content["seeds"]) & set(reference.cell.content["seeds"]))
    if shared:
        return [f"{kept.cell.label}: the floor shares seeds {shared} with the reference"]
    noise = len({r.noise_hash for r in rows} & {r.noise_hash for r in theirs})
    if noise:
        return [f"{kept.cell.label}: the floor shares the noise of {noise} images"]
    same = duplicates(kept, rows, reference)
    return [f"{kept.cell.label}: {same} pictures of the floor are the reference's"] * bool(same)


def duplicates(kept: Kept, rows: list[ShardRow], reference: Kept) -> int:
    """Pictures, black ones aside, with the embedding of the reference's picture of that index."""
    dark = np.array([r.black for r in rows])
    for name in sorted(kept.names("embed-") & reference.names("embed-")):
        a, b = kept.feature(name), reference.feature(name)
        if a is not None and b is not None and a.shape == b.shape:
            gap = np.linalg.norm(a - b, axis=1) <= 1e-6 * np.linalg.norm(b, axis=1)
            return int((gap & ~dark).sum())
    return 0
