"""What a shard says about each image, and its Parquet form."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sunbench.store.lossless import decode_image, encode_png

ROW_GROUP = 64  # images; `datasets` reads a row group at a time


@dataclass(frozen=True)
class ShardRow:
    """One image of a cell: where it came from and, if kept, its pixels (H, W, 3) uint8.

    png: the pixels already encoded, for a row that is to be written; rows that are read have none.
    Two rows are equal when all but their pixels are equal.
    """

    index: int
    prompt_id: str
    seed: int
    prompt: str
    negative: str
    noise_hash: str
    image: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    black: bool = False
    png: bytes | None = field(default=None, compare=False, repr=False)


_TEXTS = ("prompt_id", "prompt", "negative", "noise_hash")
_VALUES = {"index": "int64", "seed": "int64", "black": "bool"} | dict.fromkeys(_TEXTS, "string")
_ORDER = ("index", "prompt_id", "seed", "prompt", "negative", "noise_hash", "image", "black")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _features() -> bytes:
    """The `datasets` description of the columns, so that it opens ``image`` as an image."""
    columns = {
        name: {"_type": "Image"} if name == "image" else {"dtype": _VALUES[name], "_type": "Value"}
        for name in _ORDER
    }
    return json.dumps({"info": {"features": columns}}).encode()


def schema() -> pa.Schema:
    """Columns of a shard; ``image`` is a {bytes, path} struct and may be null."""
    types = {"int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
    fields = [(n, _IMAGE if n == "image" else types[_VALUES[n]]) for n in _ORDER]
    return pa.schema(fields, metadata={b"huggingface": _features()})


def _image(row: ShardRow) -> dict[str, object] | None:
    data = row.png
    if data is None and row.image is not None:
        data = encode_png(row.image)
    return None if data is None else {"bytes": data, "path": f"{row.index:08d}.png"}


def to_table(rows: Sequence[ShardRow]) -> pa.Table:
    """Rows as an Arrow table, images encoded as PNG."""
    columns: dict[str, list[Any]] = {n: [getattr(r, n) for r in rows] for n in _VALUES}
    columns["image"] = [_image(r) for r in rows]
    return pa.table({n: columns[n] for n in _ORDER}, schema=schema())


def write_rows(file: BinaryIO, table: pa.Table) -> None:
    """Write a table as Parquet; uncompressed, because PNG bytes do not shrink further."""
    pq.write_table(table, file, row_group_size=ROW_GROUP, compression="none")


def renumbered(file: BinaryIO, numbers: range) -> pa.Table | None:
    """The table of a shard file under other image numbers; None where it has these already."""
    held = pq.read_table(file, columns=["index"]).column("index").to_pylist()
    if held == list(numbers):
        return None
    file.seek(0)
    table = pq.read_table(file)
    images = [
        None if p is None else {"bytes": p["bytes"], "path": f"{i:08d}.png"}
        for i, p in zip(numbers, table.column("image").to_pylist(), strict=True)
    ]
    columns = {n: table.column(n) for n in _ORDER}
    columns |= {"index": pa.array(list(numbers)), "image": pa.array(images, _IMAGE)}
    return pa.table(columns, schema=schema())


def read_rows(
    data: BinaryIO, name: str, images: bool, only: Collection[int] | None = None
) -> Iterator[ShardRow]:
    """Rows of a shard file, with their pixels only when images is set; lossy bytes are refused.

    only: image numbers; of the file no more than the row groups that hold them is read.
    """
    columns = [n for n in _ORDER if images or n != "image"]
    with pq.ParquetFile(data) as file:
        for group in range(file.num_row_groups):
            places = None if only is None else _places(file, group, only)
            if places != []:
                table = file.read_row_group(group, columns)
                chosen = table if places is None else table.take(places)
                yield from (_row(record, name) for record in chosen.to_pylist())


def _places(file: pq.ParquetFile, group: int, only: Collection[int]) -> list[int]:
    numbers = file.read_row_group(group, ["index"]).column("index").to_pylist()
    return [place for place, index in enumerate(numbers) if index in only]


def _row(record: dict[str, Any], name: str) -> ShardRow:
    image = record.pop("image", None)
    place = f"{name}, image {record['index']}"
    image = None if image is None else decode_image(image["bytes"], place)
    return ShardRow(image=image, **record)
