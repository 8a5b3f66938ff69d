"""Cards of random fields and random bytes: a card, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzzing import FLAG_JUNK, JUNK, check, expect_user_errors, few
from hypothesis import given
from hypothesis import strategies as st

from sunbench.models.card import RULES, from_mapping, read_card, to_toml

GOOD: dict[str, Any] = {"name": "mine", "source": "hub", "id": "owner/name"}
FIELDS = st.dictionaries(st.sampled_from([*RULES, "id2", ""]), st.sampled_from(JUNK), max_size=4)


@few(200)
@given(FIELDS)
def test_fields(fields: dict[str, Any]):
    """A card of odd fields is refused, or writes itself as TOML that reads back as itself."""

    def work() -> None:
        card = from_mapping(GOOD | fields, "mine.toml")
        assert json.loads(json.dumps(card.content)) == card.content
        assert "\ud800" not in to_toml(card)

    expect_user_errors(work)


def test_files(tmp_path: Path):
    whole = "".join(f"{k} = {json.dumps(v)}\n" for k, v in GOOD.items())
    words = ["guidance_scale = ", "loras = ", "[", "]", '"""', "{", "\x00", "1e999", "= =", "nan"]
    file = tmp_path / "mine.toml"

    @few(100)
    @given(st.integers(0, len(whole)), st.sampled_from(words), st.binary(max_size=6))
    def fuzz(at: int, word: str, junk: bytes) -> None:
        file.write_bytes(whole[:at].encode() + word.encode() + junk + whole[at:].encode())
        expect_user_errors(lambda: read_card(file))

    fuzz()


def test_a_run_with_an_odd_card(lab: Any, tmp_path: Path):
    """The world's card with one field changed: a plan, or one line before anything is sampled."""
    table = dict(line.split(" = ", 1) for line in lab.world.card.read_text().splitlines())
    good = {k: json.loads(v) for k, v in table.items()}
    file = tmp_path / "odd.toml"
    values = [v for v in JUNK if v is not None and v == v and not isinstance(v, dict)]

    @few(6)
    @given(st.sampled_from([f for f in RULES if f != "id"]), st.sampled_from([*values, *FLAG_JUNK]))
    def fuzz(field: str, value: Any) -> None:
        fields = good | {field: value}
        text = "".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items())
        file.write_text(text, "utf-8", errors="replace")
        check(["run", "--dry-run", "--models", str(file), "--images", "4", "--steps", "1"])

    fuzz()
