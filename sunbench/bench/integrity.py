"""What must hold in any run, whatever its numbers: pairing, seeds, noise, lossless images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sunbench.bench.paired_scores import Side
from sunbench.store import CellReader, ShardRow, decode_image, mispaired
from sunbench.store.files import open_file

_PNG = b"\x89PNG\r\n\x1a\n"


def problems(side: Side) -> list[str]:
    """Why a run's numbers mean nothing, a line each; UserError for a missing or broken shard."""
    return [
        p for model in dict.fromkeys(r.model for r in side.rows) for p in _of_model(side, model)
    ]


def _of_model(side: Side, model: str) -> list[str]:
    cells = [(c, c.rows()) for c in (CellReader(c, side.path) for c in side.of_model(model))]
    reference = next((pair for pair in cells if pair[0].record.role == "reference"), None)
    if reference is None:
        return [f"{model}: the run has no reference"]
    out = []
    for cell, rows in cells:
        lossless(cell)
        out += own_rows(cell, rows)
        pairing = apart if cell.record.role == "floor" else paired
        out += pairing(cell, rows, *reference)
    return out


def lossless(cell: CellReader) -> None:
    """UserError naming the first stored image that is not lossless; pixels are not decoded."""
    for k in cell.shards:
        _check_bytes(cell.folder / cell.store.manifest(k)["images"]["file"])


def _check_bytes(file: Path) -> None:
    with open_file(file) as data, pq.ParquetFile(data) as table:
        for group in range(table.num_row_groups):
            images = table.read_row_group(group, columns=["image"]).column("image").to_pylist()
            for image in images:
                if image is not None and not image["bytes"].startswith(_PNG):
                    decode_image(image["bytes"], f"{file}, {image['path']}")


def own_rows(cell: CellReader, rows: list[ShardRow]) -> list[str]:
    """The images of a cell are those that its content asks for, each from noise of its own."""
    label, seeds = cell.record.label, cell.about.seeds
    wrong = [r.index for i, r in enumerate(rows) if (r.index, r.seed) != (i, seeds[i % len(seeds)])]
    repeated = len(rows) - len({r.noise_hash for r in rows})
    out = [f"{label}, image {i}: its seed is not the one the cell asks for" for i in wrong[:1]]
    return out + [f"{label}: {repeated} images start from another image's noise"] * bool(repeated)


def paired(
    cell: CellReader, rows: list[ShardRow], reference: CellReader, theirs: list[ShardRow]
) -> list[str]:
    """A candidate shows its reference's prompts from its reference's noise, in the same order."""
    label, mine, other = cell.record.label, list(cell.about.seeds), list(reference.about.seeds)
    if mine != other:
        return [f"{label}: seeds {mine}, expected its reference's {other}"]
    problem = mispaired(rows, theirs)
    return [] if problem is None else [f"{label}, {problem}"]


def apart(
    cell: CellReader, rows: list[ShardRow], reference: CellReader, theirs: list[ShardRow]
) -> list[str]:
    """A floor shares neither seeds, nor noise, nor images with the reference."""
    label = cell.record.label
    shared = sorted(set(cell.about.seeds) & set(reference.about.seeds))
    if shared:
        return [f"{label}: the floor shares seeds {shared} with the reference"]
    noise = len({r.noise_hash for r in rows} & {r.noise_hash for r in theirs})
    if noise:
        return [f"{label}: the floor shares the noise of {noise} images"]
    same = duplicates(cell, rows, reference)
    return [f"{label}: {same} images of the floor are the reference's"] * bool(same)


def duplicates(cell: CellReader, rows: list[ShardRow], reference: CellReader) -> int:
    """Images, black ones aside, with the embedding of the reference's image of that index."""
    dark = np.array([r.black for r in rows])
    for name in sorted(cell.names("embed-") & reference.names("embed-")):
        a, b = cell.feature(name), reference.feature(name)
        if a is not None and b is not None and a.shape == b.shape:
            gap = np.linalg.norm(a - b, axis=1) <= 1e-6 * np.linalg.norm(b, axis=1)
            return int((gap & ~dark).sum())
    return 0
