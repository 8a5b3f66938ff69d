"""Prompt sets: the zoo's, the named ones, the hub's, and N prompts x S seeds."""

from __future__ import annotations

import hashlib
import json
import shutil
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

import sunbench
from sunbench.errors import NotAvailable, UserError
from sunbench.models import ModelCard, cards, find_model
from sunbench.prompts import Prompt, PromptSet, hub, load, names, pinned
from sunbench.prompts.load import named_sets
from sunbench.zoo.world.captions import held_out_prompts

ROWS = (Prompt("a", "a dog"), Prompt("b", "a cat", "ugly"), Prompt("c", "an ant"))
SET = PromptSet("three", ROWS, "here", "none")


def test_zoo_is_the_ten_thousand_held_out_prompts() -> None:
    zoo = load("zoo")
    assert len(zoo) == 10_000 == len({r.id for r in zoo.rows}) == named_sets()["zoo"]["rows"]
    assert {r.negative for r in zoo.rows} == {""}
    assert [(r.id, r.text) for r in zoo.rows] == [(p.id, p.text) for p in held_out_prompts()]
    assert len({r.text for r in zoo.rows}) == len(zoo)
    whole = [p for p in held_out_prompts() if p.id.endswith("-11111")]
    assert len(whole) > 100
    for prompt in whole:
        assert prompt.id == hashlib.sha256(prompt.text.encode()).hexdigest()[:12] + "-11111"


def test_general_is_the_projects_own_set_for_models_without_prompts() -> None:
    general = load("general")
    assert (
        len(general) == 1000 == len({r.id for r in general.rows}) == named_sets()["general"]["rows"]
    )
    assert [r.id for r in general.rows[:2]] == ["general-0001", "general-0002"]
    assert len({r.text.lower() for r in general.rows}) == 1000
    words = [len(r.text.split()) for r in general.rows]
    assert min(words) >= 2
    assert max(words) <= 48  # with punctuation under CLIP's 75 tokens
    assert sum(n <= 7 for n in words) > 200
    assert sum(n >= 20 for n in words) > 150
    assert find_model("owner/name").prompts == "general"
    assert ModelCard("a", "hub", "owner/name").prompts == "general"
    assert {card.prompts for card in cards().values() if card.source == "zoo"} == {"zoo"}


def test_general_reads_its_own_column_alone() -> None:
    assert load("general", limit=3).rows == load("general").rows[:3]
    assert set(load("general", column="category").rows[0].text) <= set(string.ascii_lowercase)
    with pytest.raises(UserError, match="unknown column"):
        load("general", column="promt")


def test_limit_takes_the_first_rows_and_keeps_their_ids() -> None:
    assert load("zoo", limit=5).rows == load("zoo").rows[:5]


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_impossible_limits_are_refused(limit: int) -> None:
    with pytest.raises(UserError, match=r"expected (at least 1|1 to 10000)"):
        load("zoo", limit=limit)


def test_unknown_choices_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sampled'"):
        load("zoo", negatives="sample")
    with pytest.raises(UserError, match="unknown vocabulary"):
        load("zoo", negatives="sampled", vocabulary="z")
    with pytest.raises(UserError, match="column 'x' for the set zoo"):
        load("zoo", column="x")


def test_hash_sees_every_field_and_the_order_but_no_name() -> None:
    assert PromptSet("other", ROWS, "there", "any").hash == SET.hash
    changed = [
        (Prompt("z", "a dog"), *ROWS[1:]),
        (Prompt("a", "a fox"), *ROWS[1:]),
        (Prompt("a", "a dog", "ugly"), *ROWS[1:]),
        ROWS[::-1],
        ROWS[:2],
    ]
    hashes = {PromptSet("three", rows, "here", "none").hash for rows in changed}
    assert len(hashes | {SET.hash}) == 6


def test_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match="0 prompts"):
        PromptSet("none", (), "here", "none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUNBENCH_CACHE", str(tmp_path / "own-cache"))


def test_named_sets_say_where_they_are_from() -> None:
    assert list(names()) == [
        "zoo",
        "general",
        "coco-30k",
        "parti",
        "drawbench",
        "geneval",
        "coco2017-val",
    ]
    for name, entry in named_sets().items():
        assert {"summary", "rows", "source", "license"} <= entry.keys()
        assert name in ("zoo", "general") or hub.set_of_table(entry).split


def test_listing_names_imports_no_torch() -> None:
    code = "import sys; from sunbench.prompts import names; names(); print('torch' in sys.modules)"
    root = str(Path(sunbench.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name@abc123:test", ("owner/name", "abc123", "test")),
        ("owner/name:validation", ("owner/name", None, "validation")),
    ],
)
def test_hub_specs(spec: str, expected: tuple[str, str | None, str]) -> None:
    hub_set = hub.parse(spec)
    assert hub_set is not None
    assert (hub_set.path, hub_set.revision, hub_set.split) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_data_sets_are_read_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """A local JSON file stands in for the hub's; the list of captions gives its first."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "captions.jsonl"
    rows = [{"captions": ["a dog", "one dog"], "id": 1}, {"captions": ["a cat"], "id": 1}]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    there = hub.HubSet("json", data_files=str(file), streaming=streaming)
    table, column, as_read = hub.read_hub_set(there, "captions", None)
    assert as_read == there
    assert column == "captions"
    assert [r.values["captions"][0] for r in table.records] == ["a dog", "a cat"]
    assert len(hub.read_hub_set(there, "captions", 1)[0].records) == 1


def test_named_set_reads_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "evaluation.jsonl"
    file.write_text('{"prompt": "a photo of a bench", "tag": "single_object"}\n')
    monkeypatch.setitem(named_sets()["geneval"], "url", str(file))
    prompt_set = load("geneval", negatives="sampled")
    assert [r.text for r in prompt_set.rows] == ["a photo of a bench"]
    assert prompt_set.license == "MIT"
    assert prompt_set.rows[0].negative
    with pytest.raises(UserError, match="given 2 prompts of geneval, expected 1 to 1"):
        load("geneval", limit=2)


def test_named_sets_are_pinned_but_for_one_that_nobody_pins() -> None:
    assert [name for name in names() if not pinned(name)] == ["coco2017-val"]
    for name, entry in named_sets().items():
        if "url" in entry or "hub" in entry:
            assert hub.set_of_table(entry).pinned == pinned(name)
    assert not hub.HubSet("owner/name", "main").pinned


def test_the_commit_that_was_read_is_told_also_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set that is not pinned: its source, and so run.json, names what the hub had."""
    from huggingface_hub import HfApi

    commit, asked = "c0ffee" + "0" * 34, list[object]()

    def info(self: object, name: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(sha=commit)

    def rows(there: hub.HubSet, **_: object) -> datasets.Dataset:
        asked.append(there.revision)
        return datasets.Dataset.from_dict({"captions": ["a dog", "a cat"]})

    monkeypatch.setattr(HfApi, "dataset_info", info)
    monkeypatch.setattr(hub, "_open", rows)
    online = load("coco2017-val")
    assert f"(phiyodr/coco2017@{commit}:validation)" in online.source
    assert not online.pinned
    assert set(asked) == {commit}
    assert load(f"phiyodr/coco2017@{commit}:validation", column="captions").pinned
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("coco2017-val") == online


def test_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nwith a long story")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr(hub, "_resolved", lambda there: there)
    with pytest.raises(UserError) as caught:
        load("parti")
    assert "nateraw/parti-prompts@944b156a" in str(caught.value)
    assert "Couldn't reach the Hub" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` tried six times, for 25 seconds and as many lines."""
    from huggingface_hub import HfApi

    asked: list[str] = []

    def offline(self: object, name: str, **_: object) -> None:
        asked.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "dataset_info", offline)
    with pytest.raises(NotAvailable, match=r"nateraw/parti-prompts@944b156a.*no route"):
        load("parti")
    assert asked == ["nateraw/parti-prompts"]


def test_of_hub_sets_only_texts_are_read_and_kept_for_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    image = [{"bytes": b"no image", "path": None}] * 3
    rows = {"image": image, "caption": ["a dog", "a cat", "an ant"], "negative": ["", "x", "y"]}
    table_ = pa.table({**rows, "id": [1, 2, 3]})
    pq.write_table(table_, folder / "train.parquet")
    there = hub.HubSet(str(folder), streaming=True)
    chosen: list[object] = []
    real = datasets.load_dataset

    def spy(*args: object, **options: object) -> object:
        chosen.append(options.get("columns"))
        return real(*args, **options)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    table, column, _ = hub.read_hub_set(there, None, None)
    assert column == "caption"
    assert [dict(r.values) for r in table.records] == [
        {"caption": c, "negative": n}
        for c, n in zip(rows["caption"], rows["negative"], strict=True)
    ]
    assert chosen == [None, ["caption", "negative"]]
    shutil.rmtree(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again, *_ = hub.read_hub_set(there, None, 2)
    assert [r.values for r in again.records] == [r.values for r in table.records[:2]]
    with pytest.raises(NotAvailable):
        hub.read_hub_set(hub.HubSet("nobody/nothing", streaming=True), None, None)
