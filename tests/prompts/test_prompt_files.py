"""Prompt files: every format gives the same rows, every defect one clear line."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.prompts import PromptSet, load

SUFFIXES = [".txt", ".csv", ".tsv", ".jsonl", ".parquet"]

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\ufeff"), min_size=1).filter(
    lambda t: t == t.strip() and t != ""
)


def write(folder: Path, suffix: str, rows: list[dict[str, str]]) -> Path:
    """Write rows by other means than the code under test."""
    path, names = folder / f"prompts{suffix}", list(rows[0])
    if suffix == ".txt":
        path.write_bytes("".join(r["prompt"] + "\n" for r in rows).encode())
    elif suffix == ".jsonl":
        path.write_bytes("".join(json.dumps(r) + "\n" for r in rows).encode())
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        buffer = io.StringIO()
        writer = csv.writer(
            buffer, delimiter="," if suffix == ".csv" else "\t", lineterminator="\n"
        )
        writer.writerow(names)
        writer.writerows([list(r.values()) for r in rows])
        path.write_bytes(buffer.getvalue().encode())
    return path


def refused(path: Path | str, **options: str) -> str:
    """The one line that a bad input gives."""
    with pytest.raises(UserError) as caught:
        load(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def prompts_or_line(path: Path) -> PromptSet | str:
    """What is in a file, or what a user is told; any other error goes through."""
    try:
        return load(str(path))
    except UserError as error:
        return str(error)


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, min_size=1, max_size=8))
def test_every_format_gives_the_same_rows(prompts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"prompt": p} for p in prompts]
        sets = [load(str(write(Path(folder), s, rows))) for s in SUFFIXES]
    assert all([r.text for r in s.rows] == prompts for s in sets)
    assert len({s.hash for s in sets}) == 1
    assert len({r.id for r in sets[0].rows}) == len(prompts)


@settings(deadline=None, max_examples=40)
@given(st.lists(texts, min_size=1, max_size=6), st.lists(texts, min_size=1, max_size=6))
def test_later_rows_change_no_earlier_row(first: list[str], later: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few = load(
            str(write(Path(folder), ".txt", [{"prompt": p} for p in first])), negatives="sampled"
        )
        more = load(
            str(write(Path(folder), ".txt", [{"prompt": p} for p in first + later])),
            negatives="sampled",
        )
    assert more.rows[: len(few)] == few.rows
    assert more.take(len(few)).hash == few.hash != more.hash


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_are_prompts_or_one_clear_line(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in SUFFIXES:
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(data)
            loaded = prompts_or_line(path)
            if isinstance(loaded, PromptSet):
                assert all(r.text.strip() for r in loaded.rows)
            else:
                assert "\n" not in loaded


def test_repeated_line_gets_a_numbered_id(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a dog\na cat\na dog\na dog\n")
    first, cat, second, third = (r.id for r in load(str(tmp_path / "p.txt")).rows)
    assert [second, third] == [f"{first}-2", f"{first}-3"]
    assert cat not in (first, second, third)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_and_byte_order_mark_do_not_matter(tmp_path: Path, ending: str) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf" + f"a dog{ending}a cat".encode())
    assert [r.text for r in load(str(tmp_path / "p.txt")).rows] == ["a dog", "a cat"]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_own_ids_and_negatives_are_used(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"id": "one", "caption": "a dog", "negative_prompt": "a cat"},
        {"id": "two", "caption": "a cat", "negative_prompt": ""},
    ]
    path = write(tmp_path, suffix, rows)
    own = load(str(path), negatives="default", default_negative="ugly").rows
    assert [(r.id, r.text, r.negative) for r in own] == [
        ("one", "a dog", "a cat"),
        ("two", "a cat", ""),
    ]
    assert {r.negative for r in load(str(path)).rows} == {""}


def test_default_negative_stands_in_for_a_missing_column(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a dog\n")
    rows = load(str(tmp_path / "p.txt"), negatives="default", default_negative="ugly").rows
    assert rows[0].negative == "ugly"


def test_column_is_chosen_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv", [{"prompt": "a dog", "other": "a cat"}])
    assert load(str(path)).rows[0].text == "a dog"
    assert load(str(path), column="other").rows[0].text == "a cat"
    assert "did you mean 'other'" in refused(path, column="othr")


def test_numbers_as_ids_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    image = {"bytes": b"\x00", "path": "x"}
    pq.write_table(pa.table({"id": [7, 8], "text": ["a dog", "a cat"], "image": [image] * 2}), path)
    assert [r.id for r in load(str(path)).rows] == ["7", "8"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.txt", b"a dog\n\na cat\n", "p.txt line 2 is empty"),
        ("p.txt", b"a dog\n \t\n", "p.txt line 2 is empty"),
        ("p.txt", b"", "0 prompts"),
        ("p.txt", b"\xff\xfe", "UTF-8"),
        ("p.csv", b"", "0 prompts"),
        ("p.csv", b"prompt\n", "0 prompts"),
        ("p.csv", b"prompt\na dog\n\na cat\n", "p.csv line 3 is empty"),
        ("p.csv", b"prompt,negative\n,bad\n", "p.csv line 2: given an empty prompt"),
        ("p.csv", b"prompt,id\na dog\n", "p.csv line 2: given 1 fields, expected 2"),
        ("p.csv", b"prompt,id\na,b,c\n", "p.csv line 2: given 3 fields, expected 2"),
        ("p.csv", b"prompt,prompt\na,b\n", "different column names"),
        ("p.csv", b'prompt\n"a dog\n', "unexpected end of data"),
        ("p.csv", b"one,two\na,b\n", "expected one named prompt, caption, text"),
        ("p.csv", b"prompt,id\na,x\nb,x\n", "p.csv line 3: given id 'x' a second time"),
        ("p.csv", b"prompt,id\na,\n", "given id ''"),
        ("p.jsonl", b'{"prompt": "a"}\n\n', "p.jsonl line 2 is empty"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt"\n', "p.jsonl line 2 is no JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n{"other": 1}\n', "p.jsonl line 2: given prompt None"),
        ("p.jsonl", b'["a"]\n', "expected a JSON object"),
        ("p.jsonl", b'{"prompt": 3}\n', "given prompt 3, expected a text"),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', "broken character"),
        ("p.parquet", b"PAR1 and no more", "no whole Parquet file"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in refused(tmp_path / name)


def test_parquet_without_rows_or_with_nulls(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "p.parquet")
    assert "0 prompts" in refused(tmp_path / "p.parquet")
    pq.write_table(pa.table({"prompt": ["a", None]}), tmp_path / "q.parquet")
    assert "q.parquet row 2: given prompt None" in refused(tmp_path / "q.parquet")


def test_semicolons_and_tabs_part_columns_too(tmp_path: Path) -> None:
    """A spreadsheet in a country of decimal commas writes semicolons."""
    rows = "{p}{d}{n}\n'a dog, big'{d}a cat\n'a; b'{d}\n".replace("'", '"')
    for delimiter in ",;\t":
        text = rows.format(p="prompt", n="negative", d=delimiter)
        (tmp_path / "p.csv").write_text(text)
        own = load(str(tmp_path / "p.csv"), negatives="default").rows
        assert [(r.text, r.negative) for r in own] == [("a dog, big", "a cat"), ("a; b", "")]


def test_parquet_that_is_no_utf8(tmp_path: Path) -> None:
    ends, letters = pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")
    broken = pa.Array.from_buffers(pa.string(), 2, [None, ends, letters])
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "p.parquet")
    assert "p.parquet: given no UTF-8 text" in refused(tmp_path / "p.parquet")


@pytest.mark.parametrize("store_schema", [True, False])  # read as a dictionary, or unpacked
def test_a_parquet_bomb_is_refused_before_it_fills_the_memory(
    tmp_path: Path, store_schema: bool
) -> None:
    """One text of a megabyte, 20,000 times: 20 GB from a file of a few megabytes."""
    text = pa.array(["x" * 10**6])
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), text)
    table = pa.table({"prompt": words})
    pq.write_table(table, tmp_path / "p.parquet", store_schema=store_schema)
    assert (tmp_path / "p.parquet").stat().st_size < 10**7
    assert "holds over 268,435,456 bytes of text" in refused(tmp_path / "p.parquet")


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_files_of_too_many_bytes_are_not_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)  # a hole, which takes no room on the disk
    assert "holds over 268,435,456 bytes" in refused(path)


def test_missing_file_and_unknown_kind(tmp_path: Path) -> None:
    assert "expected a file" in refused(tmp_path / "none.txt")
    assert "expected .txt" in refused(tmp_path / "none.xlsx")
    assert "unknown prompt set 'zooo'; did you mean 'zoo'" in refused("zooo")
