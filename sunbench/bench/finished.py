"""Is a run finished, with nothing changed that it rests on? Then it is read, and nothing is loaded.

A finished run's receipt holds a stamp of what shaped its numbers: the request, versions, the
package's own code, size and time of change of every local file that cards and request name, and
what the caches of downloads hold. Beside it stand the checksums of its documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from sunbench import zoo
from sunbench.bench.claim import claim, read_marker, write_marker
from sunbench.bench.environment import environment
from sunbench.bench.outcome import Outcome
from sunbench.bench.request import Request, request_cards
from sunbench.errors import UserError
from sunbench.models import ModelCard, find_model
from sunbench.paths import cell_folder
from sunbench.store import CellRecord, CellStore, RunDocument, RunFolder, key, sha256_file
from sunbench.store.files import remove_parts

#: Whose code shapes the numbers.
PACKAGES = ("sunbench", "sunbench.methods", "sunbench.reference_sets")

Stat = tuple[str, int, int]


@dataclass(frozen=True)
class Receipt:
    """A request, and the stamp of it as it would be answered now."""

    stamp: str
    request: dict[str, Any]

    @classmethod
    def of(cls, request: Request, only: str | None) -> Receipt:
        """The stamp of a request; UserError for models that are not there."""
        chosen = request_cards(request)
        places = _strings([request.to_json(), *(c.content for c in chosen)])
        files = [s for place in sorted(set(places)) for s in _stats(Path(place).expanduser())]
        content = [request.to_json(), only, [_content(c) for c in chosen], environment().to_json()]
        stamp = key([content, files, _stats(zoo.weights()), _code(), _downloads()])
        return cls(stamp, json.loads(json.dumps(request.to_json())))

    def outcome(self, run: RunFolder) -> Outcome | None:
        """What the run found, or None where anything is missing, broken or not what it was."""
        try:
            if read_marker(run.path) != self._marker(run):
                return None
            document, results = run.read_run(), run.read_results_document()
            if not all(_whole(run.path, cell) for cell in _cells(document)):
                return None
        except (UserError, OSError):
            return None
        return Outcome(
            rows=list(results.rows),
            pairs=list(results.pairs),
            set_pairs=list(results.set_pairs),
            finite_n=list(results.finite_n),
            times=list(results.timing),
            requirements=list(results.requirements),
            black=document.black_images,
        )

    def write(self, run: RunFolder) -> None:
        """Say in the run's folder that it is finished."""
        write_marker(run.path, self._marker(run))

    def _marker(self, run: RunFolder) -> dict[str, object]:
        return {"stamp": self.stamp, "request": self.request, **_documents(run)}


def finished_outcome(request: Request, out: Path) -> Outcome | None:
    """What a folder already holds of a request; None where anything is to be made or checked.

    Imports nothing that samples, so that asking again is quick. Errors as `execute`.
    """
    if not RunFolder(out).run_file.exists():
        return None
    claim(out)
    with locked_run(out) as run:
        return Receipt.of(request, None).outcome(run)


@contextmanager
def locked_run(out: Path) -> Iterator[RunFolder]:
    """A run's folder under its lock, without what writes that were cut short left in it."""
    run = RunFolder(out)
    with run.lock():
        for folder in (out, out / "tables"):
            remove_parts(folder)
        yield run


def _documents(run: RunFolder) -> dict[str, str]:
    return {f.name: sha256_file(f) for f in (run.run_file, run.results_file)}


def _cells(document: RunDocument) -> Iterator[CellRecord]:
    for model in document.models:
        yield from (cell for cell in model.all_cells if cell.skip is None)


def _whole(run: Path, cell: CellRecord) -> bool:
    """Whether every shard of a cell is there with its checksums right."""
    store = CellStore.open(cell_folder(run, cell.role, cell.key))
    return store.key == cell.key and all(store.has_shard(k) for k in range(cell.about.shards))


# ------------------------------------------------------------------------------ the stamp


def _content(card: ModelCard) -> dict[str, object]:
    """A card, and that of the model that its U-Net goes into."""
    base = None if card.unet_into is None else _based(card.unet_into)
    return {**card.content, "base": base}


def _based(name: str) -> dict[str, object]:
    return _content(find_model(name))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _stat(path: Path) -> Stat:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _stats(place: Path) -> list[Stat]:
    """Size and time of change of a file, or of all files below a folder; none for other names."""
    try:
        if place.is_file():
            return [_stat(place)]
        return [_stat(f) for f in sorted(place.rglob("*")) if f.is_file()] if place.parts else []
    except OSError:
        return []


def _code() -> list[Stat]:
    """The package itself and its two top-level folders.

    In a checkout the package's search path holds the checkout too, with environments and caches in
    it: the folders are those of the packages' own files.
    """
    origins = [spec.origin for name in PACKAGES if (spec := find_spec(name)) and spec.origin]
    folders = sorted({Path(origin).parent for origin in origins})
    kinds = (".py", ".toml")
    return [
        _stat(f) for d in folders for f in sorted(d.rglob("*")) if f.suffix in kinds and f.is_file()
    ]


def _downloads() -> list[Any]:
    """What the caches of the hub and of torch hold: revisions, snapshots, checkpoints."""
    hub = Path(HF_HUB_CACHE)
    files = sorted(f for f in hub.glob("models--*/refs/**/*") if f.is_file())
    refs = [(str(f), f.read_bytes().hex()) for f in files]
    snapshots = [str(f) for f in sorted(hub.glob("models--*/snapshots/*/**/*"))]
    return [refs, snapshots, _stats(Path(torch.hub.get_dir()) / "checkpoints")]
