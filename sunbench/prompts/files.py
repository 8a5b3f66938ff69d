"""Prompt files: .txt (one prompt per line), .csv, .tsv, .jsonl, .parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sunbench.errors import UserError
from sunbench.prompts.records import Record, prompt_column
from sunbench.store.files import JsonObject, open_file, read_text

#: Of a file's text: 2,500,000 prompts of 100 letters.
MOST_BYTES = 2**28
_PARQUET_ROWS = 256  # read at once, so that a bomb is seen before it fills the memory


@dataclass(frozen=True)
class Table:
    """A file's columns and rows."""

    columns: tuple[str, ...]
    records: list[Record]


def _split(path: Path) -> list[str]:
    """Lines of a UTF-8 file, for any line ending; UserError when it cannot be read."""
    _check_size(path.name, path.stat().st_size)
    text = read_text(path)
    if not text:
        raise nothing(path)
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _check_size(name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{name} holds over {MOST_BYTES:,} bytes of text, expected prompts")


def nothing(path: Path) -> UserError:
    """The one line for a file without prompts."""
    return UserError(f"{path.name} holds 0 prompts, expected at least one")


def _lines(path: Path) -> list[str]:
    """Lines of a file; UserError at the first empty one."""
    lines = _split(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path.name} line {number} is empty, expected a prompt")
    return lines


def _read_txt(path: Path) -> Table:
    rows = enumerate(_lines(path), 1)
    return Table(("prompt",), [Record(f"{path.name} line {n}", {"prompt": t}) for n, t in rows])


def _fields(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of each row; a quoted field may hold line breaks."""
    reader = csv.reader((t + "\n" for t in _split(path)), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            yield f"{path.name} line {reader.line_num}", fields
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num}: {error}") from error


def _read_separated(path: Path, delimiter: str) -> Table:
    rows = _fields(path, delimiter)
    _, header = next(rows)
    if not header or len(set(header)) != len(header) or "" in header:
        raise UserError(f"{path.name}: given header {header}, expected different column names")
    return Table(tuple(header), [_separated(place, header, fields) for place, fields in rows])


def _separated(place: str, header: list[str], fields: list[str]) -> Record:
    if not any(f.strip() for f in fields):
        raise UserError(f"{place} is empty, expected a prompt")
    if len(fields) != len(header):
        raise UserError(f"{place}: given {len(fields)} fields, expected {len(header)}")
    return Record(place, dict(zip(header, fields, strict=True)))


def _read_csv(path: Path) -> Table:
    """Columns parted by commas, semicolons or tabs, whichever the header has most of."""
    header = _split(path)[0]
    return _read_separated(path, max(",;\t", key=header.count))


def _read_tsv(path: Path) -> Table:
    return _read_separated(path, "\t")


def _json_line(place: str, line: str) -> Record:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{place}: given {type(values).__name__}, expected a JSON object")
    return Record(place, values)


def _read_jsonl(path: Path) -> Table:
    records = [_json_line(f"{path.name} line {n}", t) for n, t in enumerate(_lines(path), 1)]
    return Table(tuple(dict.fromkeys(c for r in records for c in r.values)), records)


def _read_parquet(path: Path) -> Table:
    try:
        with open_file(path) as data, pq.ParquetFile(data) as file:
            names = [n for n in file.schema_arrow.names if _is_plain(file.schema_arrow.field(n))]
            rows = _parquet_rows(path, file, names)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: given no UTF-8 text (byte {error.start})") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path.name} is no whole Parquet file ({_first_line(error)})") from error
    return Table(tuple(names), [Record(f"{path.name} row {n}", r) for n, r in enumerate(rows, 1)])


def _parquet_rows(path: Path, file: pq.ParquetFile, names: list[str]) -> list[JsonObject]:
    """Rows, in batches: a small file may hold one long text a million times."""
    rows: list[dict[str, Any]] = []
    size = 0
    for batch in file.iter_batches(_PARQUET_ROWS, columns=names):
        size += sum(map(_unpacked_bytes, batch.columns))
        _check_size(path.name, size)
        rows += batch.to_pylist()
    return rows


def _unpacked_bytes(column: pa.Array) -> int:
    """Bytes of a column, each value of a dictionary as often as it is used."""
    if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return int(pc.sum(lengths).as_py() or 0)
    return int(column.nbytes)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain(field: pa.Field) -> bool:
    """Texts, numbers and lists of texts; images, embeddings and the like are left unread."""
    kind, types = field.type, pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


READERS: dict[str, Callable[[Path], Table]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def read_prompt_file(path: Path, column: str | None) -> tuple[Table, str]:
    """A file's rows and the column that holds the prompts; one clear UserError for each defect."""
    if not path.is_file():
        raise UserError(f"given prompts {path}, expected a file")
    table = READERS[path.suffix.lower()](path)
    if not table.records:
        raise nothing(path)
    return table, prompt_column(path.name, table.columns, column)
