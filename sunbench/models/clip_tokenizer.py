"""CLIP's tokenizer for single files, which carry weights but no vocabulary."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from sunbench.errors import NotAvailable, UserError
from sunbench.paths import cache_root

from .catalogue import place
from .hashes import value_hash
from .hub import fetch_folder
from .mistakes import first_sentence

logger = logging.getLogger(__name__)

REPOSITORY = "openai/clip-vit-large-patch14"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
MERGES = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"
PADDING = {"sd1": END, "sd2": "!"}


def clip_tokenizer(source: str | None, architecture: str) -> Any:
    """Give the tokenizer of SD1.x or SD2.x.

    source: a tokenizer folder or hub id. Without one: the vocabulary inside open_clip where that is
    installed, else the hub's; both hold the same 49408 tokens. Raises NotAvailable when none is.
    """
    if source is not None:
        return _open(_folder_of(source))
    return _open(_standard_folder(), PADDING.get(architecture, END))


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash what a tokenizer does (ids, padding, length), not how its files are laid out."""
    return value_hash(
        {
            "vocabulary": tokenizer.get_vocab(),
            "padding": tokenizer.pad_token,
            "length": tokenizer.model_max_length,
        }
    )


def _open(folder: Path, padding: str | None = None) -> Any:
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UserError(
            f"given tokenizer {str(folder)!r}, cannot be read ({first_sentence(error)})"
        ) from error
    if padding is not None:
        tokenizer.pad_token = padding
        tokenizer.model_max_length = 77
    return tokenizer


def _folder_of(source: str) -> Path:
    origin = place(source, "tokenizer")
    if origin.kind == "file" or origin.file is not None:
        raise UserError(
            f"given tokenizer {source!r}, expected a folder with vocab.json and merges.txt"
        )
    if origin.kind == "folder":
        return Path(origin.id)
    return _fetch(origin.id, origin.revision)


def tokenizer_files(names: Sequence[str]) -> list[str]:
    """Choose the files of a tokenizer, which may stand in a folder of its own."""
    prefix = "" if "vocab.json" in names else "tokenizer/"
    return [prefix + name for name in FILES if prefix + name in names]


def has_local_vocabulary() -> bool:
    """Whether CLIP's tokenizer can be had without the hub."""
    return _open_clip_merges() is not None


def _fetch(repository: str, revision: str | None) -> Path:
    folder = fetch_folder(repository, revision, tokenizer_files)
    return folder if (folder / "vocab.json").is_file() else folder / "tokenizer"


def _standard_folder() -> Path:
    packed = _open_clip_merges()
    if packed is not None:
        return _unpack(packed)
    try:
        return _fetch(REPOSITORY, None)
    except UserError as error:
        raise NotAvailable(
            "CLIP's tokenizer is not available offline: a single file carries none; install "
            f"open_clip_torch, or give a folder as tokenizer ({error})"
        ) from error


def _open_clip_merges() -> Path | None:
    spec = find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if path.is_file():
            return path
    return None


def _unpack(packed: Path) -> Path:
    """Write vocab.json and merges.txt from CLIP's list of merges, once."""
    folder = cache_root() / "clip-tokenizer"
    if not (folder / "merges.txt").is_file():
        lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")
        merges = lines[1 : MERGES + 1]
        vocabulary = {token: index for index, token in enumerate(_tokens(merges))}
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
        _write(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _tokens(merges: Sequence[str]) -> list[str]:
    """CLIP's token order: bytes, bytes that end a word, merges, start and end (Radford 2021)."""
    letters = _byte_letters()
    ends = [letter + "</w>" for letter in letters]
    return [*letters, *ends, *("".join(merge.split()) for merge in merges), START, END]


def _byte_letters() -> list[str]:
    """One printable letter per byte: printable ones stand for themselves, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(others)]
