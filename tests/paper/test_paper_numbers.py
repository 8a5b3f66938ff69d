"""The papers' numbers as data, and the catalogue that must fit them."""

from __future__ import annotations

import pytest
from paper_lookup import lookup, shipped

from sunbench.errors import UserError
from sunbench.paper.catalogue import entries, find_entry
from sunbench.paper.cells import places
from sunbench.paper.numbers import printed
from sunbench.registry import METHODS

#: Rows and columns of each table, as printed.
SHAPES = {"sun-1": (6, 6), "sun-2": (5, 6), "sun-4": (3, 4), "boostdiff-1": (8, 2)}


@pytest.mark.parametrize("name", shipped())
def test_every_number_is_one(name: str):
    assert printed(name)
    for p in printed(name):
        assert p.value == float(p.text)
        assert p["row"].strip() == p["row"] != ""


@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
def test_tables_are_whole(name: str, shape: tuple[int, int]):
    rows = dict.fromkeys(p["row"] for p in printed(name))
    columns = {(p["model"], p["metric"], p.steps) for p in printed(name)}
    assert (len(rows), len(columns)) == shape
    assert len(printed(name)) == shape[0] * shape[1]


def test_the_timing_table_is_whole():
    places = {(p["row"], p["hardware"], p["component"]) for p in printed("sun-3")}
    assert len(places) == len(printed("sun-3")) == 6 * 2 * 2


@pytest.mark.parametrize("name", SHAPES)
def test_the_catalogue_has_the_rows_and_models_of_the_numbers(name: str):
    entry = find_entry(name)
    assert [r.name for r in entry.rows] == list(dict.fromkeys(p["row"] for p in printed(name)))
    assert [m.name for m in entry.models] == list(dict.fromkeys(p["model"] for p in printed(name)))
    parts = {p.name for p in entry.parts}
    assert {r.part for r in entry.rows} == parts
    assert {p.against for p in entry.parts} <= parts | {""}


def test_every_method_of_the_catalogue_is_registered():
    assert {r.method for e in entries().values() for r in e.rows} <= METHODS.keys()


@pytest.mark.parametrize("name", ["a-sdm-1", "a-sdm-2", "a-sdm-3", "a-sdm-4"])
def test_rows_of_a_sdm_are_the_papers_and_stand_at_every_step(name: str):
    entry, places_ = find_entry(name), places(find_entry(name))
    rows = {p["row"] for p in printed(name)}
    assert {r.name for r in entry.rows} <= rows
    assert (name == "a-sdm-4") or {r.name for r in entry.rows} == rows
    assert len(places_) == len(printed(name)) * len(entry.steps)
    assert {model for _, model, _ in places_} == {"Stable Diffusion v1.5"}
    if len(entry.steps) > 1:
        assert all("number of steps is unsaid" in p.doubt for p, _, _ in places_)


def test_copied_cells_carry_their_doubt():
    copied = [p for p in printed("sun-1") if "copied from LCM" in p.doubt]
    assert len(copied) == 16
    assert {p["row"] for p in copied} == {"DDIM", "DPM-Solver++", "Guided-Distill", "LCM"}
    assert {p.steps for p in copied} == {4, 8}


def test_lookup_wants_exactly_one():
    assert lookup("sun-2", row="SUN", model="Anything v5", steps="8") == 16.17
    with pytest.raises(KeyError, match="6 numbers"):
        lookup("sun-2", row="SUN")


def test_an_unknown_table_is_named_with_its_nearest():
    with pytest.raises(UserError, match="unknown paper table 'sun5'; did you mean 'sun-4'"):
        find_entry("sun5")
