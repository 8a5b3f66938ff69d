"""Hub data sets as records, through `datasets`."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sunbench.errors import NotAvailable
from sunbench.paths import cache_root
from sunbench.prompts.files import Table, read_prompt_file
from sunbench.prompts.records import NEGATIVE_COLUMNS, Record, prompt_column
from sunbench.store.files import JsonObject

logger = logging.getLogger(__name__)

#: Of the kept rows: the commit that they are of.
REVISION = b"revision"

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
    def pinned(self) -> bool:
        """Whether what is read cannot change: a commit is named."""
        named = self.data_files or self.revision or ""
        return bool(re.search(r"\b[0-9a-f]{40}\b", named))

    @property
    def name(self) -> str:
        """The set in words: ``owner/name@revision:split``."""
        place = self.data_files or f"{self.path}@{self.revision or 'main'}"
        return f"{place}:{self.split}"


def parse(spec: str) -> HubSet | None:
    """The data set in ``owner/name[@revision][:split]``, or None for anything else."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    return HubSet(match["id"], match["revision"], match["split"] or "train", streaming=True)


def set_of_table(entry: Mapping[str, Any]) -> HubSet:
    """The data set of an entry of ``sets.toml``."""
    path = entry["format"] if "url" in entry else entry["hub"]
    return HubSet(path, entry.get("revision"), entry["split"], entry.get("url"), "hub" in entry)


def _resolved(hub: HubSet) -> HubSet:
    """The set at the commit that its revision stands for now.

    One request that is not tried again: `datasets` alone would try for half a minute.
    """
    from huggingface_hub import HfApi, constants

    if hub.data_files is not None or Path(hub.path).exists():
        return hub
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        info = HfApi().dataset_info(hub.path, revision=hub.revision, timeout=10)
    except Exception as error:
        raise _unreachable(hub, error) from None
    return replace(hub, revision=info.sha or hub.revision)


def _open(hub: HubSet, **options: Any) -> Any:
    """The data set; any failure at this border becomes one line."""
    import datasets

    try:
        return datasets.load_dataset(
            hub.path,
            revision=hub.revision,
            split=hub.split,
            data_files=hub.data_files,
            streaming=hub.streaming,
            **options,
        )
    except Exception as error:
        raise _unreachable(hub, error) from error


def _with_columns(data: Any, hub: HubSet, columns: list[str]) -> Any:
    """The data set with these columns alone; of Parquet files no other column is read."""
    if hub.streaming and len(columns) < len(data.column_names or columns):
        try:
            return _open(hub, columns=columns)
        except NotAvailable:  # a format without columns to choose
            pass
    return data.select_columns(columns)


def _unreachable(hub: HubSet, error: Exception) -> NotAvailable:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return NotAvailable(
        f"prompts of {hub.name} cannot be read here ({reason}); give a file instead, or go online"
    )


def _columns(data: Any, hub: HubSet) -> list[str]:
    """Column names; a stream without a description is asked for its first row."""
    names = data.column_names
    if names is None:
        names = next((list(row) for row in _rows(data, hub, 1)), [])
    return list(names)


def _rows(data: Any, hub: HubSet, limit: int | None) -> list[JsonObject]:
    try:
        return list(islice(data, limit))
    except Exception as error:
        raise _unreachable(hub, error) from error


def read_hub_set(hub: HubSet, column: str | None, limit: int | None) -> tuple[Table, str, HubSet]:
    """The first rows of a data set, the column that holds its prompts, and the commit's set.

    Images stay unread. What was read is kept in the cache for when the hub cannot be reached.
    """
    try:
        there = _resolved(hub)
        table, chosen = _read_online(there, column, limit)
    except NotAvailable:
        kept = _kept(hub, column)
        if not kept.is_file():
            raise
        table, chosen = read_prompt_file(kept, column)
        return Table(table.columns, table.records[:limit]), chosen, _as_kept(kept, hub)
    _keep(_kept(hub, column), table, there)
    return table, chosen, there


def _as_kept(file: Path, hub: HubSet) -> HubSet:
    """The set at the commit that the kept rows are of."""
    metadata = pq.read_schema(file).metadata or {}
    return replace(hub, revision=metadata.get(REVISION, b"").decode() or hub.revision)


def _kept(hub: HubSet, column: str | None) -> Path:
    digest = hashlib.sha256(f"{hub.name} {column}".encode()).hexdigest()[:32]
    return cache_root() / "prompts" / f"{digest}.parquet"


def _keep(file: Path, table: Table, hub: HubSet) -> None:
    """Write the rows that were read, unless as many are there already."""
    try:
        if file.is_file() and pq.read_metadata(file).num_rows > len(table.records):
            return
        rows = pa.Table.from_pylist([dict(record.values) for record in table.records])
        rows = rows.replace_schema_metadata({REVISION: hub.revision or ""})
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.{os.getpid()}")
        pq.write_table(rows, beside)
        beside.replace(file)
    except (OSError, pa.ArrowException) as error:
        logger.warning("prompts cannot be kept in %s: %s", file, error)


def _read_online(hub: HubSet, column: str | None, limit: int | None) -> tuple[Table, str]:
    data = _open(hub)
    columns = _columns(data, hub)
    chosen = prompt_column(hub.name, columns, column)
    wanted = [c for c in columns if c in (chosen, *NEGATIVE_COLUMNS)]
    rows = _rows(_with_columns(data, hub, wanted), hub, limit)
    records = [Record(f"{hub.name} row {n}", row) for n, row in enumerate(rows, 1)]
    return Table(tuple(wanted), records), chosen
