"""Prompt embeddings: the pipeline's own, encoded once, never those of another text encoder."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sunbench.errors import UserError
from sunbench.sampling import TextCache
from sunbench.sampling.texts import SUFFIX, embedding_bytes, encoder_key

WORDS = ["a cat", "a boat"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/*{SUFFIX}"))


def with_encoder(pipeline: Any, change: Any) -> Any:
    """The pipeline with a changed copy of its text encoder."""
    own = copy.copy(pipeline)
    own.text_encoder = change(copy.deepcopy(pipeline.text_encoder))
    return own


def louder(encoder: Any) -> Any:
    """What a merged LoRA leaves: the same file, other weights."""
    next(p for n, p in encoder.named_parameters() if n.endswith("q_proj.weight")).data.add_(0.5)
    return encoder


def test_each_text_is_encoded_once(pipeline: Any, tmp_path: Path):
    encoded: list[int] = []
    handle = pipeline.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(len((args or [kwargs["input_ids"]])[0])),
        with_kwargs=True,
    )
    try:
        cache = TextCache(pipeline, tmp_path)
        first = cache.block(["a cat", "a boat", "a cat", ""])
        again = TextCache(pipeline, tmp_path).block(["", "a boat", "a cat"])
    finally:
        handle.remove()
    assert encoded == [3]
    assert first.keys() == again.keys()
    assert all(torch.equal(first[t], again[t]) for t in first)


def test_embeddings_are_the_pipelines(pipeline: Any, tmp_path: Path):
    for text, embedding in TextCache(pipeline, tmp_path).block(WORDS).items():
        alone = pipeline.encode_prompt(text, "cpu", 1, False)[0][0]
        torch.testing.assert_close(embedding, alone, atol=1e-6, rtol=1e-5)
        assert embedding.nbytes == embedding_bytes(pipeline)


def test_four_blocks_are_held_in_memory(pipeline: Any, tmp_path: Path):
    cache = TextCache(pipeline, tmp_path)
    for k in range(6):
        cache.block([f"text {k}"])
    assert len(cache._recent) == 4
    assert list(cache.block(["text 5"])) == ["text 5"]


@pytest.mark.parametrize(
    "change", [louder, lambda x: x.to(torch.bfloat16)], ids=["other weights", "other dtype"]
)
def test_another_encoder_never_gets_these_embeddings(pipeline: Any, tmp_path: Path, change: Any):
    """A card's LoRA on the text encoder once drew with the embeddings of the card before it."""
    first = TextCache(pipeline, tmp_path).block(WORDS)
    other = with_encoder(pipeline, change)
    assert encoder_key(other) != encoder_key(pipeline)
    second = TextCache(other, tmp_path).block(WORDS)
    for text in WORDS:
        alone = other.encode_prompt(text, "cpu", 1, False)[0][0]
        assert second[text].dtype == alone.dtype
        torch.testing.assert_close(second[text], alone, atol=1e-2, rtol=1e-2)
        assert not torch.equal(second[text].float(), first[text])


def test_an_equal_encoder_shares_them(pipeline: Any):
    assert encoder_key(with_encoder(pipeline, lambda x: x)) == encoder_key(pipeline)


@pytest.mark.parametrize("where", [0, 40, 200, -1])
def test_a_flipped_bit_is_encoded_again(pipeline: Any, tmp_path: Path, where: int):
    expected = TextCache(pipeline, tmp_path).block(WORDS)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    data = bytearray(whole)
    data[where] ^= 1
    file.write_bytes(bytes(data))
    again = TextCache(pipeline, tmp_path).block(WORDS)
    assert all(torch.equal(again[t], expected[t]) for t in WORDS)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_truncated_file_is_encoded_again(pipeline: Any, tmp_path: Path, size: int):
    expected = TextCache(pipeline, tmp_path).block(WORDS)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:size])
    again = TextCache(pipeline, tmp_path).block(WORDS)
    assert all(torch.equal(again[t], expected[t]) for t in WORDS)


def test_a_full_disk_is_one_line(pipeline: Any, tmp_path: Path, monkeypatch: Any):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk full while writing .*: .* needed, .* free"):
        TextCache(pipeline, tmp_path).block(WORDS)
    assert files(tmp_path) == []


def test_clear_removes_its_own_files_alone(pipeline: Any, tmp_path: Path):
    cache = TextCache(pipeline, tmp_path / "texts")
    cache.block(WORDS)
    (cache.folder / "notes.txt").write_text("mine")
    cache.clear()
    assert [f.name for f in (tmp_path / "texts").rglob("*") if f.is_file()] == ["notes.txt"]
    (cache.folder / "notes.txt").unlink()
    cache.clear()
    assert not (tmp_path / "texts").exists()
