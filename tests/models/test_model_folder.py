"""Model folders whose configs are wrong, or that would run code: one line each."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sunbench.errors import UserError
from sunbench.models import ModelCard, load
from sunbench.models.checkpoint import folder_shape
from sunbench.models.folder import (
    CLASSES,
    RULES,
    check_config,
    check_tokenizer,
    folder_config,
    read_index,
    scheduler_config,
)

ON_FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FILES = {name: f"{name}/config.json" for name in ("unet", "vae", "text_encoder")} | {
    "scheduler": "scheduler/scheduler_config.json"
}


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


def change(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def fails(folder: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load(ModelCard("mine", "folder", str(folder), vae="own"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("component", "field", "value"),
    [
        ("unet", "in_channels", "4"),
        ("unet", "cross_attention_dim", "32"),
        ("unet", "cross_attention_dim", []),
        ("unet", "block_out_channels", []),
        ("unet", "block_out_channels", [32, "64"]),
        ("unet", "block_out_channels", 32),
        ("unet", "layers_per_block", 0),
        ("unet", "norm_eps", math.nan),
        ("unet", "norm_num_groups", -32),
        ("unet", "down_block_types", []),
        ("unet", "down_block_types", ["CrossAttnDownBlock2D"]),
        ("unet", "down_block_types", "CrossAttnDownBlock2D"),
        ("unet", "attention_head_dim", 2**70),
        ("vae", "latent_channels", "4"),
        ("vae", "scaling_factor", math.nan),
        ("vae", "scaling_factor", 0),
        ("vae", "decoder_block_out_channels", []),
        ("text_encoder", "hidden_size", "32"),
        ("text_encoder", "num_hidden_layers", 0),
        ("text_encoder", "vocab_size", -1),
        ("scheduler", "num_train_timesteps", 0),
        ("scheduler", "num_train_timesteps", "1000"),
        ("scheduler", "num_train_timesteps", 10**12),
        ("scheduler", "num_train_timesteps", True),
        ("scheduler", "beta_start", math.nan),
        ("scheduler", "beta_start", "0.00085"),
        ("scheduler", "beta_end", 1.5),
        ("scheduler", "beta_end", math.inf),
        ("scheduler", "beta_schedule", "cosine"),
        ("scheduler", "trained_betas", []),
        ("scheduler", "trained_betas", [0.1, math.nan]),
        ("scheduler", "trained_betas", [0.1, 0.2]),
        ("scheduler", "prediction_type", "velocity"),
        ("scheduler", "prediction_type", None),
        ("scheduler", "steps_offset", -1),
    ],
)
def test_wrong_fields_are_one_line(folder: Path, component: str, field: str, value: Any) -> None:
    change(folder, FILES[component], **{field: value})
    with pytest.raises(UserError, match=rf"given .*{field}.*expected") as caught:
        scheduler_config(folder) if component == "scheduler" else folder_config(folder, component)
    assert FILES[component] in str(caught.value)
    fails(folder, field)


def test_what_only_the_class_refuses_is_one_line(folder: Path) -> None:
    change(folder, FILES["unet"], down_block_types=["NoSuchBlock", "DownBlock2D"])
    fails(folder, "cannot be loaded")


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '{"a": 1e999}x', "\xff"])
def test_configs_that_are_no_object_are_one_line(folder: Path, text: str) -> None:
    for file in (*FILES.values(), "model_index.json"):
        saved = (folder / file).read_bytes()
        (folder / file).write_bytes(text.encode("latin-1"))
        fails(folder, file)
        (folder / file).write_bytes(saved)


EVIL = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: change(f, "model_index.json", unet=["evil", "Evil"]), "unet comes from 'evil'"),
        (lambda f: change(f, "model_index.json", extra=["evil", "Evil"]), "extra comes from 'evil"),
        (
            lambda f: change(f, "model_index.json", unet=["diffusers", "Evil"]),
            "unknown class of the unet 'Evil'",
        ),
        (
            lambda f: change(f, "model_index.json", _class_name=["pipeline", "Evil"]),
            "given _class_name",
        ),
        (
            lambda f: change(f, "model_index.json", custom_pipeline="evil"),
            "given custom_pipeline",
        ),
        (lambda f: None, "code beside weights"),
        (
            lambda f: change(f, FILES["text_encoder"], auto_map={"AutoModel": "evil.Evil"}),
            "given auto_map",
        ),
        (lambda f: change(f, FILES["unet"], auto_map={"AutoModel": "evil.Evil"}), "given auto_map"),
        (
            lambda f: change(f, FILES["scheduler"], auto_map={"AutoModel": "evil.Evil"}),
            "given auto_map",
        ),
        (
            lambda f: change(
                f,
                "tokenizer/tokenizer_config.json",
                auto_map={"AutoTokenizer": ["evil.Evil", None]},
            ),
            "given auto_map",
        ),
        (lambda f: change(f, FILES["unet"], _class_name="Evil"), "unknown class of the unet"),
    ],
)
def test_code_of_a_folder_is_never_run(
    folder: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(folder)
    for place in ("unet",) if words == "code beside weights" else ("", "tokenizer/.."):
        (folder / place / "evil.py").write_text(EVIL)
    if words != "code beside weights":
        (folder / "text_encoder.py").write_text(EVIL)
    fails(folder, words)
    assert not list(folder.rglob("ran"))


def _drop_vocabulary(folder: Path) -> None:
    for path in (folder / "tokenizer").glob("*"):
        if path.name != "tokenizer_config.json":
            path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        _drop_vocabulary,
        lambda f: shutil.rmtree(f / "tokenizer"),
        lambda f: [path.write_bytes(b"") for path in (f / "tokenizer").glob("*")],
    ],
)
def test_a_model_without_its_tokenizer_is_refused(
    folder: Path, spoil: Callable[[Path], Any]
) -> None:
    """Such a folder once gave a CLIP score of -7 in place of 91, and exit code 0."""
    spoil(folder)
    with pytest.raises(UserError, match="has no tokenizer"):
        check_tokenizer(folder)
    fails(folder, "tokenizer")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    for path in (folder / "tokenizer").glob("*"):
        path.unlink()
    tokens = ["<|startoftext|>", "<|endoftext|>", "a", "b</w>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer/tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    )
    fails(folder, "the tokenizer has 4 tokens")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_such(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No float32 copy is made on the way; LoRAs alone are merged in float32."""
    from diffusers import StableDiffusionPipeline

    loaded: list[torch.dtype] = []
    whole = StableDiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        pipeline = whole(cls, *args, **options)
        loaded.extend({part.dtype for part in (pipeline.unet, pipeline.vae)})
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    model = load(ModelCard("mine", "folder", str(folder), vae="own"), dtype=dtype)
    assert set(loaded) == {dtype}
    assert {part.dtype for part in (model.pipeline.unet, model.pipeline.vae)} == {dtype}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(data=st.data(), component=st.sampled_from(sorted(RULES)))
def test_any_value_passes_or_is_one_line(data: st.DataObject, component: str) -> None:
    fields = data.draw(
        st.dictionaries(st.sampled_from([*RULES[component], "_class_name"]), VALUES, max_size=3)
    )
    try:
        check_config(fields, component, Path("config.json"))
    except UserError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_every_component_that_is_built_has_its_classes(small_folder: Path) -> None:
    index = read_index(small_folder)
    assert {name: index[name][1] in kinds for name, kinds in CLASSES.items()} == dict.fromkeys(
        CLASSES, True
    )
    assert folder_shape(small_folder).in_channels == 4
