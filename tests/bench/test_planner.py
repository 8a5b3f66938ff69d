"""What a plan says of names that may read something else another day."""

from __future__ import annotations

from sunbench.bench.planner import ModelPlan
from sunbench.models import ModelCard, find_model
from sunbench.prompts import Prompt, PromptSet
from sunbench.store import ModelRecord, PromptSetRecord

COMMIT = "0123456789" * 4


def planned(card: ModelCard, *, pinned: bool) -> ModelPlan:
    prompts = PromptSet("some", (Prompt("p", "a cat"),), "owner/set@main:train", "", pinned)
    record = PromptSetRecord(prompts.name, prompts.hash, 1, prompts.source)
    facts = ModelRecord(card.content, {}, record, (), revision=COMMIT)
    return ModelPlan(card, prompts, [], facts)


def test_what_is_not_pinned_is_said_with_what_was_read():
    model, prompts = planned(find_model("owner/name@main"), pinned=False).not_pinned
    assert model.startswith(f"owner/name: revision not pinned, read at commit {COMMIT}; ")
    assert prompts == "prompts some: revision not pinned, read from owner/set@main:train"


def test_what_is_pinned_or_not_of_the_hub_is_not_mentioned():
    for name in (f"owner/name@{COMMIT}", f"owner/name@{COMMIT}:a b.safetensors", "emoji-3d"):
        assert planned(find_model(name), pinned=True).not_pinned == []
    unnamed = ModelCard("mine", "hub", f"owner/name@{COMMIT}:x.safetensors")
    assert planned(unnamed, pinned=True).not_pinned == []


def test_three_cards_that_nobody_pins_say_so():
    names = ["anything_v5", "rev_animated", "toonyou", "sd1.5", "sd2.1-base"]
    assert [n for n in names if planned(find_model(n), pinned=True).not_pinned] == names[:3]
