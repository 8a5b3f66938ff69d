"""The table of methods."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from sunbench import registry
from sunbench.errors import UserError


def test_unknown_name_says_the_nearest():
    with pytest.raises(UserError, match=r"unknown method 'dimm'; did you mean 'ddim'\?"):
        registry.method("dimm")


def test_a_name_near_nothing_lists_what_there_is():
    with pytest.raises(UserError, match=r"known: .*ddim"):
        registry.method("zzzzzzzz")


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_row_is_complete_and_leads_to_its_method(name: str):
    entry = registry.METHODS[name]
    assert entry.target.startswith("sunbench.methods.")
    assert entry.summary
    assert "\n" not in entry.summary
    assert entry.paper.startswith(("arXiv ", "unpublished"))
    assert registry.method(name).name == name


def test_other_packages_join_by_entry_points(monkeypatch: pytest.MonkeyPatch):
    mine = EntryPoint("mine", "sunbench.methods.ddim:ddim_leading", "sunbench.methods")
    taken = EntryPoint("ddim", "somewhere:else", "sunbench.methods")
    entries = EntryPoints([mine, taken])
    monkeypatch.setattr(registry, "entry_points", lambda group: entries.select(group=group))
    assert registry.method("mine").name == "ddim-leading"
    assert registry.methods()["ddim"] == registry.METHODS["ddim"]  # nobody replaces a built-in one


def test_the_table_is_read_without_torch():
    code = "import sys, sunbench.registry as r; r.methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_methods_that_share_weights_name_the_same():
    for name, entry in registry.METHODS.items():
        weights = getattr(registry.method(name), "weights", None)
        assert entry.weights == ("" if weights is None else weights.method)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("snu", "unknown method 'snu'; did you mean 'sun'?"),
        ("snu@emoji", "unknown method 'snu'; did you mean 'sun'?"),
        ("ddim", "given weights for ddim, which takes none; expected one of .*lcm-lora.*sun"),
        ("lcm", "given weights for lcm, expected it among the methods of the run"),
    ],
)
def test_weights_of_no_method_of_the_run(key: str, line: str):
    with pytest.raises(UserError, match=line):
        registry.check_weights({key: "x"}, ["ddim", "sun-dpm++"])


def test_weights_of_methods_that_share_them():
    registry.check_weights({"sun": "x", "sun@emoji": "y"}, ["ddim", "sun-dpm++"])


def test_weights_of_no_model_of_the_run():
    registry.check_weights_models({"sun": "x", "sun@emoji": "x"}, ["emoji"])
    with pytest.raises(UserError, match="unknown model in weights 'emojy'; did you mean 'emoji'"):
        registry.check_weights_models({"sun@emojy": "x"}, ["emoji", "other"])


@pytest.mark.parametrize(
    ("name", "parts", "weights"),
    [
        ("bk-sdm-base+dpm++", ("bk-sdm-base", "dpm++"), {"bk-sdm-base"}),
        ("a-sdm-m2+lcm-lora", ("a-sdm-m2", "lcm-lora"), {"a-sdm-m2", "lcm-lora"}),
        ("switch-s1", ("bk-sdm-base",), {"bk-sdm-base"}),
        ("switch:bk-sdm-tiny@1,model@2,a-sdm-m1@3", ("bk-sdm-tiny", "a-sdm-m1"), None),
        ("dpm++", ("dpm++",), set()),
        ("sun-dpm++", ("sun-dpm++",), {"sun"}),
    ],
)
def test_composed_names(name: str, parts: tuple[str, ...], weights: set[str] | None):
    assert registry.composition(name) == parts
    assert registry.weights_of(name) == (set(parts) if weights is None else weights)
    assert registry.method(name).name == name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bk-sdm-bas+ddim", "unknown method 'bk-sdm-bas"),
        ("bk-sdm-base+ddin", "unknown method 'ddin'; did you mean 'ddim'"),
        ("switch:bk-sdm-bse@10,model@15", "unknown network 'bk-sdm-bse'; did you mean"),
        ("switch:model", "given the plan 'model', expected NET@STEPS,NET@STEPS"),
        ("switch:model@0", "expected NET@STEPS"),
        ("switch:", "expected NET@STEPS"),
    ],
)
def test_composed_names_that_are_wrong(name: str, line: str):
    with pytest.raises(UserError, match=line) as error:
        registry.method(name)
    assert "\n" not in str(error.value)


def test_weights_of_composed_methods_are_their_parts():
    registry.check_weights({"bk-sdm-base": "x"}, ["switch-s1"])
    registry.check_weights({"lcm-lora": "x"}, ["bk-sdm-base+lcm-lora"])
    with pytest.raises(UserError, match="given weights for lcm-lora, expected it among"):
        registry.check_weights({"lcm-lora": "x"}, ["bk-sdm-base+ddim"])


def test_turns_of_a_method_that_switches():
    assert registry.turns("switch-s1") == (("bk-sdm-base", 10), ("model", 15))
    assert registry.turns("int8:switch:model@2,mine@1") == (("model", 2), ("mine", 1))
    for name in ("bk-sdm-base+ddim", "ddim", "lora:a/b:c@tcd", "switch:odd@x", "who knows"):
        assert registry.turns(name) == ()


def test_commas_of_a_plan_do_not_separate_methods():
    from sunbench.cli.options import method_names

    text = "ddim,switch:bk-sdm-base@10,model@15,dpm++, switch:model@5"
    assert method_names(text) == (
        "ddim",
        "switch:bk-sdm-base@10,model@15",
        "dpm++",
        "switch:model@5",
    )
