"""Prompts of images by their names, from a table."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sunbench.errors import UserError

#: Columns, the first that is there.
NAMES = ("id", "file_name", "name", "image")
TEXTS = ("prompt", "text", "caption")


def read_prompts(file: Path) -> dict[str, str]:
    """Name without suffix -> prompt, of a .csv, .jsonl or .parquet; UserError for anything else."""
    import pandas as pd

    readers = {
        ".csv": pd.read_csv,
        ".jsonl": lambda f: pd.read_json(f, lines=True),
        ".parquet": pd.read_parquet,
    }
    if file.suffix not in readers:
        raise UserError(f"given prompts {file}, expected one of {', '.join(readers)}")
    try:
        frame = readers[file.suffix](file)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    name, text = (next((c for c in known if c in frame), None) for known in (NAMES, TEXTS))
    if name is None or text is None:
        raise UserError(
            f"{file}: given columns {list(frame.columns)}, expected one of {', '.join(NAMES)} and"
            f" one of {', '.join(TEXTS)}"
        )
    keys = [_without_suffix(str(value)) for value in frame[name]]
    return dict(zip(keys, frame[text].astype(str), strict=True))


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in (".png", ".bmp", ".tif") else name
