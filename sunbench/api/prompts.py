"""Prompts of images by their names, from a table."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sunbench.errors import UserError
from sunbench.prompts import files, records

#: Columns of images' names, the first that is there.
NAMES = ("id", "file_name", "name", "image")


def read_prompts(file: Path) -> dict[str, str]:
    """Name without suffix -> prompt, of a .csv, .tsv, .jsonl or .parquet; UserError else."""
    known = [suffix for suffix in files.READERS if suffix != ".txt"]
    if file.suffix.lower() not in known:
        raise UserError(f"given prompts {file}, expected one of {', '.join(known)}")
    table, text = files.read_prompt_file(file, None)
    name = next((c for c in NAMES if c in table.columns and c != text), None)
    if name is None:
        raise UserError(
            f"{file}: given columns {', '.join(table.columns)}, expected one of {', '.join(NAMES)}"
        )
    keys = [_without_suffix(str(record.values.get(name))) for record in table.records]
    rows = records.prompts(table.records, text)
    return {key: row.text for key, row in zip(keys, rows, strict=True)}


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in (".png", ".bmp", ".tif") else name
