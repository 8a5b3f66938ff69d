"""From a name, a file or a hub data set to a prompt set."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from sunbench.errors import UserError, unknown
from sunbench.prompts import files, hub, records
from sunbench.prompts.negatives import (
    Vocabulary,
    real_vocabulary,
    with_sampled_negatives,
    zoo_vocabulary,
)
from sunbench.prompts.rows import Prompt, PromptSet
from sunbench.store.files import JsonObject

NEGATIVES = ("none", "default", "sampled")
VOCABULARIES = {"real": real_vocabulary, "zoo": zoo_vocabulary}


@lru_cache
def named_sets() -> dict[str, JsonObject]:
    """The named sets of ``sets.toml``."""
    return tomllib.loads(
        resources.files("sunbench.prompts").joinpath("sets.toml").read_text("utf-8")
    )


def names() -> dict[str, str]:
    """Name and one-line summary of each named set."""
    return {name: entry["summary"] for name, entry in named_sets().items()}


def pinned(name: str) -> bool:
    """Whether a named set is read at one commit, or comes with the package."""
    entry = named_sets()[name]
    return not {"hub", "url"} & entry.keys() or hub.set_of_table(entry).pinned


def load(
    spec: str,
    *,
    column: str | None = None,
    negatives: str = "none",
    limit: int | None = None,
    default_negative: str = "",
    vocabulary: str | None = None,
) -> PromptSet:
    """The prompts that a spec names.

    spec: a named set; a .txt, .csv, .tsv, .jsonl or .parquet file; or a hub data set
    ``owner/name[@revision][:split]``. column: where its prompts are. limit: the first so many.
    negatives: ``none``; ``default``, the rows' own ``negative`` or ``negative_prompt`` column, or
    else default_negative; ``sampled`` from a vocabulary, ``zoo`` or ``real`` (by default zoo for
    the zoo's captions). Errors: UserError, one line, for anything that is not a prompt set.
    """
    if negatives not in NEGATIVES:
        raise unknown("negatives", negatives, NEGATIVES)
    if vocabulary is not None and vocabulary not in VOCABULARIES:
        raise unknown("vocabulary", vocabulary, VOCABULARIES)
    if limit is not None and limit < 1:
        raise UserError(f"given limit {limit}, expected at least 1")
    prompt_set, own = _find(spec, column, limit)
    prompt_set = prompt_set if limit is None else prompt_set.take(limit)
    rows = _with_negatives(
        prompt_set.rows, negatives, own, default_negative, vocabulary or _usual(spec)
    )
    return replace(prompt_set, rows=rows)


def _usual(spec: str) -> str:
    return "zoo" if spec == "zoo" else "real"


def _with_negatives(
    rows: tuple[Prompt, ...], negatives: str, own: bool, default: str, vocabulary: str
) -> tuple[Prompt, ...]:
    """own: whether the rows came with a negative column."""
    if negatives == "sampled":
        chosen: Vocabulary = VOCABULARIES[vocabulary]()
        return with_sampled_negatives(rows, chosen)
    if negatives == "default" and own:
        return rows
    negative = default if negatives == "default" else ""
    return tuple(replace(r, negative=negative) for r in rows)


def _find(spec: str, column: str | None, limit: int | None) -> tuple[PromptSet, bool]:
    """The set, and whether its negatives are its own."""
    if spec == "zoo":
        return _zoo(column, limit), False
    if spec in named_sets():
        entry = named_sets()[spec]
        if "file" in entry:
            return _shipped(spec, column or entry["column"], entry), False
        there = hub.set_of_table(entry)
        return _from_hub(spec, there, column or entry["column"], limit, entry)
    if Path(spec).suffix.lower() in files.READERS:
        return _from_file(Path(spec), column)
    if elsewhere := hub.parse(spec):
        return _from_hub(spec, elsewhere, column, limit, {})
    if Path(spec).suffix:
        raise UserError(f"given prompts {spec}, expected {', '.join(files.READERS)}")
    raise unknown("prompt set", spec, named_sets())


def _zoo(column: str | None, limit: int | None) -> PromptSet:
    if column is not None:
        raise UserError(f"given column {column!r} for the set zoo, expected none")
    from sunbench.zoo.world.captions import held_out_prompts

    entry = named_sets()["zoo"]
    rows = tuple(Prompt(p.id, p.text) for p in held_out_prompts(limit))
    return PromptSet("zoo", rows, entry["source"], entry["license"])


def _shipped(name: str, column: str, entry: Mapping[str, Any]) -> PromptSet:
    """A set that comes with the package."""
    place = resources.files("sunbench.prompts").joinpath("data", entry["file"])
    with resources.as_file(place) as path:
        table, chosen = files.read_prompt_file(path, column)
    rows = records.prompts(table.records, chosen, ids=True)
    return PromptSet(name, rows, entry["source"], entry["license"])


def _from_file(path: Path, column: str | None) -> tuple[PromptSet, bool]:
    table, chosen = files.read_prompt_file(path, column)
    negative = records.negative_column([c for c in table.columns if c != chosen])
    ids = "id" in table.columns and chosen != "id"
    rows = records.prompts(table.records, chosen, negative=negative, ids=ids)
    return PromptSet(path.stem, rows, f"file {path.name}", "not stated"), negative is not None


def _from_hub(
    name: str, there: hub.HubSet, column: str | None, limit: int | None, entry: Mapping[str, Any]
) -> tuple[PromptSet, bool]:
    """Ids are of the texts: a data set's ``id`` column need not be one per caption."""
    table, chosen, as_read = hub.read_hub_set(there, column, limit)
    negative = records.negative_column([c for c in table.columns if c != chosen])
    rows = records.prompts(table.records, chosen, negative=negative)
    source = f"{entry['source']} ({as_read.name})" if entry else as_read.name
    license = entry.get("license", "see the data set's page")
    return PromptSet(name, rows, source, license, there.pinned), negative is not None
