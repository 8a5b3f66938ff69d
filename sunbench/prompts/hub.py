"""Hub data sets as records, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sunbench.errors import UserError
from sunbench.prompts.files import Table
from sunbench.prompts.records import NEGATIVE_COLUMNS, Record, prompt_column

_SPEC = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<split>[\w.]+))?")


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub, or a single public file that `datasets` reads (path = its format)."""

    path: str
    revision: str | None = None
    split: str = "train"
    data_files: str | None = None
    streaming: bool = False

    @property
    def name(self) -> str:
        """The set in words: ``owner/name@revision:split``."""
        return f"{self.data_files or self.path}@{self.revision or 'main'}:{self.split}"


def parse(spec: str) -> HubSet | None:
    """The data set in ``owner/name[@revision][:split]``, or None for anything else."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    return HubSet(match["id"], match["revision"], match["split"] or "train")


def from_table(entry: Mapping[str, Any]) -> HubSet:
    """The data set of an entry of ``sets.toml``."""
    path = entry["format"] if "url" in entry else entry["hub"]
    streaming = bool(entry.get("streaming", False))
    return HubSet(path, entry.get("revision"), entry["split"], entry.get("url"), streaming)


def _open(hub: HubSet) -> Any:
    """The data set; any failure at this border becomes one line."""
    import datasets

    try:
        return datasets.load_dataset(
            hub.path,
            revision=hub.revision,
            split=hub.split,
            data_files=hub.data_files,
            streaming=hub.streaming,
        )
    except Exception as error:
        raise _unreachable(hub, error) from error


def _unreachable(hub: HubSet, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return UserError(
        f"prompts of {hub.name} cannot be read here ({reason}); give a file instead, or go online"
    )


def _columns(data: Any, hub: HubSet) -> list[str]:
    """Column names; a stream without a description is asked for its first row."""
    names = data.column_names
    if names is None:
        names = next((list(row) for row in _rows(data, hub, 1)), [])
    return list(names)


def _rows(data: Any, hub: HubSet, limit: int | None) -> list[dict[str, Any]]:
    try:
        return list(islice(data, limit))
    except Exception as error:
        raise _unreachable(hub, error) from error


def read(hub: HubSet, column: str | None, limit: int | None) -> tuple[Table, str]:
    """The first rows of a data set and the column that holds its prompts; pictures stay unread."""
    data = _open(hub)
    columns = _columns(data, hub)
    chosen = prompt_column(hub.name, columns, column)
    wanted = [c for c in columns if c in (chosen, *NEGATIVE_COLUMNS)]
    rows = _rows(data.select_columns(wanted), hub, limit)
    records = [Record(f"{hub.name} row {n}", row) for n, row in enumerate(rows, 1)]
    return Table(tuple(wanted), records), chosen
