"""The checked reader of safetensors files: every kind of broken file is one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sunbench.errors import UserError
from sunbench.store.tensors import (
    Header,
    load_arrays,
    load_tensors,
    load_weights,
    read_header,
)


def packed(shapes: dict[str, tuple[int, ...]]) -> bytes:
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)


WHOLE = packed({"a": (3, 4), "b": (5,), "c": ()})
ON_FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_whole_file_gives_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE)
    assert read_header(path) == {"a": (3, 4), "b": (5,), "c": ()}


@ON_FILES
@given(length=st.integers(0, len(WHOLE) - 1))
def test_every_truncation_is_seen(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE[:length])
    assert "broken safetensors file" in one_line(path)


@ON_FILES
@given(more=st.binary(min_size=1, max_size=20))
def test_appended_bytes_are_seen(tmp_path: Path, more: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE + more)
    assert "its header announces" in one_line(path)


@ON_FILES
@given(data=st.binary(max_size=200))
def test_noise_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    one_line(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3)
    ),
    max_leaves=8,
)


@ON_FILES
@given(header=JSON)
def test_any_json_header_is_read_or_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if isinstance(header, dict) and header.keys() <= {"__metadata__"} and _strings(metadata):
        assert read_header(path) == {}
        assert read_header(path).metadata == (metadata or {})
    else:
        one_line(path)


def _strings(metadata: Any) -> bool:
    return metadata is None or (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    )


def test_a_pickle_in_disguise_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"state_dict": list(range(99))}))
    assert "weights_only=True" in one_line(path)


@pytest.mark.parametrize("first", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK"])
def test_a_header_as_long_as_a_pickle_begins(tmp_path: Path, first: bytes) -> None:
    """The first bytes of a file are its header's length, and any number can be that."""
    path = tmp_path / "model.safetensors"
    entry = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    length = int.from_bytes(first, "little")
    text = json.dumps(entry).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", length) + text + b"\0" * 8)
    assert path.read_bytes()[:2] == first
    assert read_header(path) == {"w": (2,)}


def written(path: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def archive() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("archive/data.pkl", b"x" * 100)
    return data.getvalue()


BROKEN: dict[str, Any] = {
    "unknown dtype": entry(dtype="Q8"),
    "negative shape": entry(shape=[-1]),
    "shape over 64 bits": entry(shape=[2**80]),
    "shape whose product overflows": entry(shape=[2**40, 2**40]),
    "fractional shape": entry(shape=[2.0]),
    "shape of text": entry(shape="2"),
    "gap before the data": entry(data_offsets=[4, 8]),
    "offsets reversed": entry(data_offsets=[8, 0]),
    "offsets beyond the file": entry(data_offsets=[0, 2**60]),
    "three offsets": entry(data_offsets=[0, 4, 8]),
    "shape does not fill its offsets": entry(shape=[3]),
    "number as metadata": {**entry(), "__metadata__": {"steps": 4}},
    "null in metadata": {**entry(), "__metadata__": {"steps": None}},
    "list as metadata": {**entry(), "__metadata__": []},
    "list as header": [1, 2],
    "no UTF-8": b'{"\xff": 1}',
    "deep nesting": b'{"a":' + b"[" * 100_000,
    "text after the header": json.dumps(entry()).encode() + b"garbage",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", [read_header, load_tensors, load_arrays, load_weights])
def test_broken_headers_are_one_line(tmp_path: Path, name: str, read: Any) -> None:
    path = written(tmp_path / "x.safetensors", BROKEN[name])
    with pytest.raises(UserError, match="broken safetensors file") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**30, 100_000_001, 0, 1])
def test_headers_of_any_length_are_one_line(tmp_path: Path, length: int) -> None:
    one_line(written(tmp_path / "x.safetensors", entry(), length=length))


@pytest.mark.parametrize(
    "data", [b"", b"\n", archive(), pickle.dumps([1] * 40), pickle.dumps({}, protocol=2)]
)
def test_other_files_are_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    words = "a pickle by content" if data[:1] in (b"P", b"\x80") else "broken safetensors file"
    assert words in one_line(path)


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo.safetensors")
    for name in ("folder", "link", "fifo", "missing"):
        one_line(tmp_path / f"{name}.safetensors")


def test_a_file_without_permission_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", entry())
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        assert read_header(path) == {"w": (2,)}
    else:
        assert "cannot be read" in one_line(path)


VALUES = st.none() | st.integers(-1, 2**70) | st.sampled_from(["F32", "F16", "I64", "Q", ""])
FIELDS = st.one_of(VALUES, st.lists(VALUES, max_size=3))
ENTRIES = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets", "extra"]), FIELDS, max_size=4
)
HEADERS = st.dictionaries(
    st.sampled_from(["w", "v", "", "__metadata__"]), ENTRIES | FIELDS, max_size=3
)


@ON_FILES
@given(header=HEADERS, data=st.binary(max_size=16))
def test_any_header_is_read_whole_or_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    """Whatever a header says, all readers agree on whether the file is whole."""
    path = written(tmp_path / "x.safetensors", header, data)
    try:
        shapes = dict(read_header(path))
    except UserError:
        one_line(path)
        with pytest.raises(UserError):
            load_tensors(path)
    else:
        assert {name: tuple(t.shape) for name, t in load_tensors(path).items()} == shapes


@ON_FILES
@given(
    shapes=st.dictionaries(st.text(max_size=8), st.lists(st.integers(0, 4), max_size=3), max_size=4)
)
def test_tensors_come_back(tmp_path: Path, shapes: dict[str, list[int]]) -> None:
    tensors = {name: torch.rand(shape) for name, shape in shapes.items() if name != "__metadata__"}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"steps": "4"})
    header, loaded, arrays = read_header(path), load_tensors(path), load_arrays(path)
    assert header == {name: tuple(t.shape) for name, t in tensors.items()}
    assert header.metadata == {"steps": "4"}
    assert set(header.dtypes.values()) <= {"F32"}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert np.array_equal(arrays[name], tensor.numpy())


def test_weights_are_finite_floats(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(3)}, path)
    assert load_weights(path)["a"].dtype == torch.bfloat16
    save_file({"a": torch.ones(2), "b": torch.ones(3, dtype=torch.int64)}, path)
    with pytest.raises(UserError, match=r"x.safetensors: b is I64, expected a floating point"):
        load_weights(path)
    for value in (float("nan"), float("inf"), -float("inf")):
        save_file({"a": torch.ones(2), "b": torch.tensor([1.0, value])}, path)
        with pytest.raises(UserError, match=r"x.safetensors: b holds values that are not finite"):
            load_weights(path)


def test_a_header_is_a_mapping_of_shapes() -> None:
    header = Header({"a": (2, 3), "b": ()})
    assert header == {"a": (2, 3), "b": ()}
    assert header != {"a": (2, 3)}
    assert len(header) == 2
    assert list(header) == ["a", "b"]
