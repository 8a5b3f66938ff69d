"""The store: shards on disk, content keys, checksums, and the run folder. Imports no torch."""

from sunbench.store.cells import CellStore
from sunbench.store.documents import (
    CellContent,
    CellRecord,
    EnvironmentRecord,
    FiniteNRow,
    ModelRecord,
    PairRow,
    PromptSetRecord,
    Results,
    RunDocument,
    SetPairRow,
    SourcesRecord,
    TrainingRequirements,
)
from sunbench.store.files import ensure_space, key, make_folder, sha256_file, write_atomic
from sunbench.store.locks import Holder
from sunbench.store.lossless import decode_image, encode_png, image_files, read_folder
from sunbench.store.pairing import mispaired
from sunbench.store.reader import CellReader, StoredFeature, readers, whole_feature
from sunbench.store.results import ResultRow, Role, budget_of
from sunbench.store.rows import ShardRow
from sunbench.store.runs import RunFolder

__all__ = [
    "CellContent",
    "CellReader",
    "CellRecord",
    "CellStore",
    "EnvironmentRecord",
    "FiniteNRow",
    "Holder",
    "ModelRecord",
    "PairRow",
    "PromptSetRecord",
    "ResultRow",
    "Results",
    "Role",
    "RunDocument",
    "RunFolder",
    "SetPairRow",
    "ShardRow",
    "SourcesRecord",
    "StoredFeature",
    "TrainingRequirements",
    "budget_of",
    "decode_image",
    "encode_png",
    "ensure_space",
    "image_files",
    "key",
    "make_folder",
    "mispaired",
    "read_folder",
    "readers",
    "sha256_file",
    "whole_feature",
    "write_atomic",
]
