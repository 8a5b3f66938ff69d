"""The run folder: what was asked (``run.json``), what was found (``results.json``), and cells."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from sunbench.errors import UserError
from sunbench.store.cells import CellStore
from sunbench.store.documents import SCHEMA_VERSION, Results, RunDocument
from sunbench.store.files import key, make_folder, read_versioned, to_json, write_atomic
from sunbench.store.locks import Holder, holder, locked, still_going
from sunbench.store.results import ResultRow


class RunFolder:
    """A folder with ``run.json``, ``results.json``, ``cells/<key>/`` and, in use, ``lock``."""

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
            raise still_going(self.path / "lock", by)
        if not self.results_file.exists() and self.run_file.exists():
            raise UserError(f"{self.path}: this run was not finished; run it again to resume")

    # -------------------------------------------------------------------------- documents

    def write_run(self, document: RunDocument) -> None:
        """Write ``run.json``."""
        self._write(self.run_file, document.to_json())

    def read_run(self) -> RunDocument:
        """Read ``run.json``; UserError when missing, broken or of another version."""
        document = read_versioned(self.run_file, SCHEMA_VERSION, "`sunbench run`")
        return RunDocument.from_json(document, str(self.run_file))

    def write_results(self, results: Results) -> None:
        """Write ``results.json``."""
        self._write(self.results_file, results.to_json())

    def read_results(self) -> list[ResultRow]:
        """Rows of ``results.json`` of a finished run; one clear UserError for each defect."""
        self.require_finished()
        return list(self.read_results_document().rows)

    def read_results_document(self) -> Results:
        """All of ``results.json``; UserError when missing, broken or of another version."""
        document = read_versioned(self.results_file, SCHEMA_VERSION, "`sunbench run`")
        return Results.from_json(document, str(self.results_file))

    def _write(self, file: Path, document: Mapping[str, object]) -> None:
        make_folder(self.path)
        write_atomic(file, to_json(document))

    # -------------------------------------------------------------------------- cells

    def cell(self, content: Mapping[str, object]) -> CellStore:
        """The store of one cell of this run, at ``cells/<content key>``."""
        return CellStore(self.path / "cells" / key(dict(content)), content)
