"""A diffusers folder's configs, checked before any class of a library sees them.

Only known classes of diffusers and transformers are built. What would run code of the folder
itself (a library name that is a module in it, `auto_map`, custom pipelines) is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sunbench.errors import UserError, unknown
from sunbench.store.files import JsonObject

from .rules import Rule, is_number, one_of, optional

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
)
#: Component -> the classes that may be built for it.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
RUNS_CODE = ("auto_map", "custom_pipelines", "custom_pipeline")
MOST_TRAINING_STEPS = 100_000


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_beta(value: object) -> bool:
    return is_number(value) and 0 <= float(str(value)) <= 1


def _is_list(value: object, test: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(test, value))


COUNT = Rule(_is_count, "a whole number of at least 1")
COUNTS = Rule(lambda value: _is_list(value, _is_count), "a list of whole numbers of at least 1")
COUNT_OR_LIST = Rule(lambda v: COUNT.test(v) or COUNTS.test(v), f"{COUNT.expected}, or a list")
BLOCKS = Rule(lambda v: _is_list(v, lambda name: isinstance(name, str)), "a list of block names")
POSITIVE = Rule(lambda value: is_number(value) and value > 0, "a finite number above 0")
FRACTION = Rule(lambda value: is_number(value) and 0 < value < 1, "a number between 0 and 1")
NUMBER = Rule(is_number, "a finite number")
FLAG = Rule(lambda value: isinstance(value, bool), "true or false")

NETWORK = {
    "in_channels": COUNT,
    "out_channels": COUNT,
    "layers_per_block": COUNT_OR_LIST,
    "block_out_channels": COUNTS,
    "norm_num_groups": optional(COUNT),
    "down_block_types": BLOCKS,
    "up_block_types": BLOCKS,
    "sample_size": optional(COUNT_OR_LIST),
}
RULES: Mapping[str, Mapping[str, Rule]] = {
    "unet": {
        **NETWORK,
        "cross_attention_dim": COUNT_OR_LIST,
        "attention_head_dim": COUNT_OR_LIST,
        "transformer_layers_per_block": COUNT_OR_LIST,
        "num_attention_heads": optional(COUNT_OR_LIST),
        "time_cond_proj_dim": optional(COUNT),
        "norm_eps": POSITIVE,
        "mid_block_scale_factor": POSITIVE,
    },
    "vae": {
        **NETWORK,
        "latent_channels": COUNT,
        "encoder_block_out_channels": COUNTS,
        "decoder_block_out_channels": COUNTS,
        "scaling_factor": POSITIVE,
        "shift_factor": optional(NUMBER),
    },
    "text_encoder": {
        "hidden_size": COUNT,
        "intermediate_size": COUNT,
        "num_hidden_layers": COUNT,
        "num_attention_heads": COUNT,
        "max_position_embeddings": COUNT,
        "vocab_size": COUNT,
        "layer_norm_eps": POSITIVE,
    },
    "scheduler": {
        "num_train_timesteps": Rule(
            lambda value: _is_count(value) and value <= MOST_TRAINING_STEPS,
            f"a whole number from 1 to {MOST_TRAINING_STEPS}",
        ),
        "beta_start": FRACTION,
        "beta_end": FRACTION,
        "beta_schedule": one_of(BETAS),
        "trained_betas": optional(
            Rule(lambda value: _is_list(value, _is_beta), "a list of numbers from 0 to 1")
        ),
        "prediction_type": one_of(PREDICTIONS),
        "steps_offset": Rule(lambda value: value == 0 or _is_count(value), "a whole number"),
        "rescale_betas_zero_snr": FLAG,
        "set_alpha_to_one": FLAG,
        "clip_sample": FLAG,
    },
}


def read_json(path: Path, what: str) -> JsonObject:
    """Read a JSON object; UserError in one line when the file is anything else."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a regular file")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: expected a readable JSON {what}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: given a {type(document).__name__}, expected a JSON {what}")
    return document


def folder_config(folder: Path, component: str, kind: str | None = None) -> JsonObject:
    """Read and check one component's config.json.

    component: the folder's name, "" for a folder that is one component. kind: what the component
    is ("unet", "vae", "text_encoder"), where its folder has another name.
    Raises UserError, one line, for a field of a wrong type or value and for a config that asks for
    code of its own.
    """
    path = folder / component / "config.json"
    config = read_json(path, "component config")
    _refuse_code(config, path)
    check_config(config, kind or component, path)
    return config


def scheduler_config(folder: Path) -> JsonObject:
    """Read and check the scheduler's config."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path, "scheduler config")
    _refuse_code(config, path)
    check_config(config, "scheduler", path)
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if betas is not None and len(betas) != steps:
        raise UserError(f"{path}: given {len(betas)} trained_betas, expected {steps}")
    return config


def check_config(config: Mapping[str, Any], component: str, path: Path) -> None:
    """Raise UserError for the first field of a wrong type or value."""
    kind, known = config.get("_class_name"), CLASSES.get(component)
    if kind is not None and known is not None and kind not in known:
        raise UserError(f"{path}: {unknown(f'class of the {component}', str(kind), known)}")
    for field, rule in RULES.get(component, {}).items():
        if field in config and not rule.test(config[field]):
            raise UserError(
                f"{path}: given {field} = {config[field]!r:.80}, expected {rule.expected}"
            )
    down, up = config.get("down_block_types"), config.get("up_block_types")
    widths = config.get("block_out_channels", down)
    if down is not None and up is not None and not len(down) == len(up) == len(widths):
        raise UserError(
            f"{path}: given {len(down)} down_block_types, {len(up)} up_block_types and"
            f" {len(widths)} block_out_channels, expected as many of each"
        )


def read_index(folder: Path) -> JsonObject:
    """Read and check a folder's model_index.json and where its components come from.

    Raises UserError for another pipeline and for anything that would run code of the folder.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise UserError(
            f"given folder {str(folder)!r}, expected a diffusers folder with a model_index.json"
        )
    index = read_json(path, "model_index")
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        raise UserError(f"{path}: given _class_name = {kind!r:.80}, expected {PIPELINES[0]}")
    if kind in PIPELINES:
        _check_components(folder, index)
    return index


def _check_components(folder: Path, index: JsonObject) -> None:
    path = folder / "model_index.json"
    _refuse_code(index, path)
    for component, entry in index.items():
        if isinstance(entry, list):
            _check_class(path, component, entry)
    for component in CLASSES:
        scripts = sorted((folder / component).glob("*.py"))
        if scripts:
            raise UserError(f"{scripts[0]}: code beside weights, which is never run; remove it")


def _check_class(path: Path, component: str, entry: list[Any]) -> None:
    library, kind = entry if len(entry) == 2 else (entry, None)
    known = CLASSES.get(component)
    if isinstance(library, list) or library not in LIBRARIES:
        raise UserError(
            f"{path}: {component} comes from {library!r:.80}, expected diffusers or transformers"
            " (code of a model folder is never run)"
        )
    if known is not None and kind not in known:
        raise UserError(f"{path}: {unknown(f'class of the {component}', str(kind), known)}")


def _refuse_code(config: JsonObject, path: Path) -> None:
    for field in RUNS_CODE:
        if config.get(field):
            raise UserError(
                f"{path}: given {field} = {config[field]!r:.80}, expected none (code of a model"
                " folder is never run)"
            )


def check_tokenizer(folder: Path) -> None:
    """Raise UserError unless a folder's tokenizer has its vocabulary and asks for no code."""
    place = folder / "tokenizer"
    whole = [place / "tokenizer.json"]
    parts = [place / "vocab.json", place / "merges.txt"]
    if not any(all(map(_is_filled, files)) for files in (whole, parts)):
        raise UserError(
            f"{place}: the model has no tokenizer, expected tokenizer.json, or vocab.json and"
            " merges.txt"
        )
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
        if (place / name).is_file():
            _refuse_code(read_json(place / name, "file of a tokenizer"), place / name)


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
