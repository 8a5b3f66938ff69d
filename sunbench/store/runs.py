"""The run folder: what was asked (``run.json``), what was found (``results.json``), and cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.store.cells import CellStore
from sunbench.store.files import key, make_folder, read_versioned, to_json, write_atomic
from sunbench.store.locks import Holder, busy, holder, locked
from sunbench.store.results import ResultRow, check_distinct

SCHEMA_VERSION = 1
_RESERVED = {"schema_version", "rows"}


class RunFolder:
    """A folder with ``run.json``, ``results.json``, ``cells/<key>/`` and, at work, ``lock``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_file(self) -> Path:
        """What was asked, and where everything came from."""
        return self.path / "run.json"

    @property
    def results_file(self) -> Path:
        """What was found."""
        return self.path / "results.json"

    # -------------------------------------------------------------------------- lock

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run while working; UserError when another living process does."""
        return locked(self.path / "lock")

    def holder(self) -> Holder | None:
        """The living process that is making this run, if any."""
        return holder(self.path / "lock")

    def require_finished(self) -> None:
        """UserError while another process is still making this run, or when none finished it."""
        by = self.holder()
        if by is not None and not by.is_me:
            raise busy(self.path / "lock", by)
        if not self.results_file.exists() and self.run_file.exists():
            raise UserError(f"{self.path}: this run was not finished; run it again to resume")

    # -------------------------------------------------------------------------- documents

    def write_run(self, document: Mapping[str, Any]) -> None:
        """Write ``run.json``; the schema version is added."""
        self._write(self.run_file, document)

    def read_run(self) -> dict[str, Any]:
        """Read ``run.json``; UserError when missing, broken or of another version."""
        return read_versioned(self.run_file, SCHEMA_VERSION, "`sunbench run`")

    def write_results(
        self, rows: Sequence[ResultRow], more: Mapping[str, Any] | None = None
    ) -> None:
        """Write ``results.json``: the rows in the given order and, beside them, ``more``."""
        check_distinct(rows)
        more = {} if more is None else more
        if clash := _RESERVED & more.keys():
            raise ValueError(f"given {sorted(clash)}, expected names other than these")
        self._write(self.results_file, {**more, "rows": [r.to_json() for r in rows]})

    def read_results(self) -> list[ResultRow]:
        """Rows of ``results.json`` of a finished run; one clear UserError for each defect."""
        self.require_finished()
        return result_rows(self.read_results_document(), str(self.results_file))

    def read_results_document(self) -> dict[str, Any]:
        """All of ``results.json``, the rows unparsed."""
        return read_versioned(self.results_file, SCHEMA_VERSION, "`sunbench run`")

    def _write(self, file: Path, document: Mapping[str, Any]) -> None:
        make_folder(self.path)
        write_atomic(file, to_json({"schema_version": SCHEMA_VERSION, **document}))

    # -------------------------------------------------------------------------- cells

    def cell(self, content: Mapping[str, Any]) -> CellStore:
        """The store of one cell of this run, at ``cells/<content key>``."""
        return CellStore(self.path / "cells" / key(dict(content)), content)


def result_rows(document: Mapping[str, Any], name: str) -> list[ResultRow]:
    """The rows in a result document; UserError naming the first that is not one."""
    records = document.get("rows")
    if not isinstance(records, list):
        raise UserError(f"{name}: given no list of rows, expected one")
    rows = [ResultRow.from_json(r, f"{name}, row {i}") for i, r in enumerate(records, 1)]
    check_distinct(rows)
    return rows
